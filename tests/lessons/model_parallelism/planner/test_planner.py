"""The planner's arithmetic: sizes, times and what depends on what; bad layouts; the search."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchcourse.lessons.data_parallelism.cost import AlphaBeta, ring_seconds
from torchcourse.lessons.model_parallelism import planner
from torchcourse.lessons.model_parallelism.planner import (
    GPT3,
    LLAMA3_8B,
    LLAMA3_70B,
    LLAMA3_405B,
    Layout,
    Model,
    Plan,
    dgx_a100,
    plan,
)
from torchcourse.lessons.model_parallelism.planner.this_machine import as_cluster

SMALL = Model("small", layers=8, width=1024, heads=16)
EIGHT = dgx_a100(8)
SIXTEEN = dgx_a100(16)


def on(gpus: int, **layout: object) -> Plan:
    layout = {"batch": 64, **layout}
    return plan(SMALL, dgx_a100(gpus), Layout(**layout))


# Models


@pytest.mark.parametrize(
    ("model", "billion"), [(GPT3, 174.6), (LLAMA3_8B, 8.03), (LLAMA3_70B, 70.55), (LLAMA3_405B, 405.85)]
)
def test_parameters_are_as_published(model: Model, billion: float) -> None:
    assert model.parameters / 1e9 == pytest.approx(billion, rel=1e-3)


def test_parameters_and_flop_are_the_papers_formulas() -> None:
    layers, h, s, vocabulary = GPT3.layers, GPT3.width, GPT3.sequence, GPT3.vocabulary
    size = 12 * layers * h**2 * (1 + 13 / (12 * h) + (vocabulary + s) / (12 * layers * h))
    assert GPT3.parameters == pytest.approx(size)
    per_layer = layers * s * h**2
    assert GPT3.model_flop == pytest.approx(72 * per_layer * (1 + s / (6 * h) + vocabulary / (12 * layers * h)))
    full = 96 * per_layer * (1 + s / (6 * h) + vocabulary / (16 * layers * h))
    assert GPT3.hardware_flop("full") == pytest.approx(full)
    selective = per_layer * 72 * (1 + vocabulary / (12 * layers * h)) + 16 * layers * s**2 * h
    assert GPT3.hardware_flop("selective") == pytest.approx(selective)
    assert GPT3.hardware_flop("none") == GPT3.model_flop


def test_a_model_without_layers_or_with_odd_heads_is_refused() -> None:
    with pytest.raises(ValueError, match="empty: layers must be at least 1, but is 0"):
        Model("empty", layers=0, width=8, heads=1)
    with pytest.raises(ValueError, match="odd: 3 heads cannot share a width of 8 evenly"):
        Model("odd", layers=1, width=8, heads=3)
    with pytest.raises(ValueError, match="3 key-value heads cannot be shared by 8 heads"):
        Model("odd", layers=1, width=8, heads=8, key_value_heads=3)


# Time


def test_one_gpu_computes_and_updates_and_nothing_else() -> None:
    seconds = on(1).seconds
    assert seconds.compute > 0
    assert seconds.update > 0
    assert seconds.total == pytest.approx(seconds.compute + seconds.update)
    flop = SMALL.model_flop * 64
    at_most = flop / (EIGHT.gpu.flops * EIGHT.efficiency.matmul)
    assert seconds.compute > at_most  # the rest is traffic


def test_the_bubble_is_as_in_the_paper() -> None:
    for interleaving in (1, 2):
        seconds = on(4, pipeline=4, interleaving=interleaving, batch=32).seconds
        stage = (on(4, pipeline=4, batch=64).seconds.compute - on(4, pipeline=4, batch=32).seconds.compute) / 32
        assert seconds.bubble == pytest.approx(3 / interleaving * (stage - _head()), rel=1e-6)


def _head() -> float:
    """Seconds of the output layer, which only the last rank of a pipeline has: a layer less in what is left over."""
    whole, one_layer = on(1, batch=1).seconds.compute, plan(replace(SMALL, layers=1), dgx_a100(1), Layout(1)).seconds
    return one_layer.compute - (whole - one_layer.compute) / 7


def test_tensor_parallelism_sends_two_all_reduces_a_pass() -> None:
    seconds = on(8, tensor=8, batch=4, micro_batch=4).seconds
    size = 2 * 4 * SMALL.sequence * SMALL.width
    once = ring_seconds(size, 8, EIGHT.link_latency, 1 / (EIGHT.link * EIGHT.efficiency.link))
    assert seconds.tensor == pytest.approx(SMALL.layers * 2 * 2 * once)
    again = on(8, tensor=8, batch=4, micro_batch=4, recomputation="full").seconds
    assert again.tensor == pytest.approx(1.5 * seconds.tensor)


def test_a_tensor_group_across_nodes_is_slower() -> None:
    inside, across = on(8, tensor=8).seconds, on(16, tensor=16).seconds
    assert across.tensor > inside.tensor


def test_data_parallel_communication_hides_behind_the_backward_pass() -> None:
    open_, hidden = on(16, data=16, overlap=False).seconds, on(16, data=16, overlap=True).seconds
    assert open_.data > 0
    # The last layer has nothing to hide behind. What hides makes computing longer.
    last = 1 / SMALL.layers
    assert hidden.data == pytest.approx(open_.data * (last + (1 - last) * SIXTEEN.efficiency.contention))
    alone = replace(SIXTEEN, efficiency=replace(SIXTEEN.efficiency, contention=0.0))
    assert plan(SMALL, alone, Layout(64, data=16)).seconds.data == pytest.approx(open_.data / SMALL.layers)
    gradients = 2 * SMALL.parameters
    bandwidth = min(8 * 25e9 * SIXTEEN.efficiency.network, 300e9 * SIXTEEN.efficiency.link)
    assert open_.data == pytest.approx(ring_seconds(gradients, 16, SIXTEEN.network_latency, 1 / bandwidth))


def test_stage_3_sends_once_and_a_half_as_much_for_one_micro_batch() -> None:
    sent = [on(8, data=8, batch=8, stage=stage, overlap=False).seconds.data for stage in range(4)]
    assert sent[0] == pytest.approx(sent[1]) == pytest.approx(sent[2])
    # Layer by layer: seven more rounds of seven messages, three times.
    assert sent[3] == pytest.approx(1.5 * sent[0] + 3 * 7 * 7 * EIGHT.link_latency)


def test_stage_2_sends_gradients_for_each_micro_batch() -> None:
    one, four = (on(8, data=8, batch=8 * m, stage=2, overlap=False).seconds.data for m in (1, 4))
    assert four == pytest.approx((4 + 1) / 2 * one)
    ddp = (on(8, data=8, batch=8 * m, overlap=False).seconds.data for m in (1, 4))
    assert len(set(ddp)) == 1


def test_stage_1_gathers_after_the_update() -> None:
    """The gradients hide, the parameters do not: half of what the whole ring sends, unless the next pass hides it."""
    ddp = on(16, data=16, overlap=False).seconds.data
    one = on(16, data=16, stage=1).seconds.data
    last = 1 / SMALL.layers
    hidden = ddp / 2 * (last + (1 - last) * SIXTEEN.efficiency.contention)
    assert one == pytest.approx(ddp / 2 + hidden)
    assert on(16, data=16, stage=1, gather_overlap=True).seconds.data == pytest.approx(hidden)


def test_broadcasts_go_round_the_ring_one_after_the_other() -> None:
    """16 ranks on two nodes: each of 16 messages passes 14 links and the network once. Stage 1 alone has them."""
    gathered, sent = (on(16, data=16, stage=1, broadcasts=how).seconds.data for how in (False, True))
    assert sent - gathered == pytest.approx(16 * (14 * SIXTEEN.link_latency + SIXTEEN.network_latency))
    assert on(16, data=16, broadcasts=True) != on(16, data=16)  # the layouts differ
    assert on(16, data=16, broadcasts=True).seconds == on(16, data=16).seconds
    two_per_node = 8 * SIXTEEN.link_latency + 7 * SIXTEEN.network_latency
    assert dgx_a100(64).ring_latency(16, stride=4) == pytest.approx(two_per_node)
    assert dgx_a100(64).ring_latency(4, stride=16) == pytest.approx(3 * SIXTEEN.network_latency)


def test_products_that_add_gradients_up_save_traffic() -> None:
    """12 bytes per parameter of a layer become 6, for float32 sums of 16-bit products."""
    layout = Layout(1, recipe="mixed precision, Adam, float32 gradients")
    apart, fused = (
        plan(GPT3, dgx_a100(1), replace(layout, fused_accumulation=how)).seconds.compute for how in (False, True)
    )
    moved = 6 * GPT3.layers * GPT3.layer_parameters / dgx_a100(1).gpu.memory_bandwidth
    assert apart - fused == pytest.approx(moved)


def test_parameters_travel_inside_the_groups_that_share_them() -> None:
    """Two nodes that hold the states once each: NVLink gathers, the network only averages an eighth per GPU."""
    inside = on(8, data=8, stage=1, overlap=False).seconds.data / 2  # an all-gather of one node
    shard = 2 * SMALL.parameters / 8
    between = ring_seconds(shard, 2, SIXTEEN.network_latency, 1 / (25e9 * SIXTEEN.efficiency.network))
    groups = on(16, data=16, stage=1, shard=8, overlap=False).seconds.data
    assert groups == pytest.approx(2 * inside + between)
    three = [on(16, data=16, stage=3, shard=shard, batch=16, overlap=False).seconds.data for shard in (0, 16, 8)]
    assert three[0] == three[1] > three[2]


def test_tensor_messages_in_pieces_leave_one_piece() -> None:
    layouts = [Layout(8, tensor=8, tensor_overlap=overlap) for overlap in (False, True)]
    whole, pieces = (plan(GPT3, EIGHT, layout).seconds for layout in layouts)
    assert pieces.tensor == pytest.approx(whole.tensor / 8)
    slow = replace(EIGHT, link=EIGHT.link / 100)  # too slow for the products to hide all
    whole, pieces = (plan(GPT3, slow, layout).seconds for layout in layouts)
    assert whole.tensor - 2 / 3 * whole.compute < pieces.tensor < whole.tensor - 1 / 3 * whole.compute


def test_context_parallelism_sends_keys_and_values() -> None:
    seconds = on(4, context=4, batch=1).seconds
    own = 2 * 2 * SMALL.sequence / 4 * SMALL.width
    once = 3 * (EIGHT.link_latency + own / (EIGHT.link * EIGHT.efficiency.link))
    assert seconds.context == pytest.approx(SMALL.layers * 2 * once)


def test_float32_computes_at_the_slow_peak() -> None:
    assert on(1, recipe="float32, Adam").seconds.compute > 5 * on(1).seconds.compute


# Utilization


@pytest.mark.parametrize("recomputation", ["none", "selective", "full"])
def test_mfu_leaves_recomputation_out_and_hfu_counts_it(recomputation: str) -> None:
    found = on(8, tensor=8, flash_attention=False, recomputation=recomputation)
    ratio = SMALL.hardware_flop(recomputation) / SMALL.model_flop
    assert found.hfu == pytest.approx(found.mfu * ratio)
    assert (found.hfu > found.mfu) == (recomputation != "none")
    assert found.mfu * 312e12 * 8 * found.seconds.total == pytest.approx(64 * SMALL.model_flop)
    assert found.tokens_per_second == pytest.approx(64 * 2048 / found.seconds.total)


def test_every_second_layer_is_computed_again() -> None:
    """Half of the second forward pass and of its messages; half of what HFU counts beyond MFU."""
    none, half, full = (
        on(8, tensor=8, recomputation=what, every=n) for what, n in (("none", 1), ("full", 2), ("full", 1))
    )
    for part in ("recomputation", "tensor"):
        all_again = getattr(full.seconds, part) - getattr(none.seconds, part)
        assert getattr(half.seconds, part) - getattr(none.seconds, part) == pytest.approx(all_again / 2)
    assert half.hfu / half.mfu - 1 == pytest.approx((full.hfu / full.mfu - 1) / 2)
    assert "recomputation full of 1 layer in 2" in str(half)


@pytest.mark.slow
@given(
    tensor=st.sampled_from([1, 2, 4, 8]),
    pipeline=st.sampled_from([1, 2, 4, 8]),
    data=st.sampled_from([1, 2, 4]),
    stage=st.sampled_from([0, 1, 2, 3]),
)
def test_what_every_layout_obeys(tensor: int, pipeline: int, data: int, stage: int) -> None:
    layout = {"tensor": tensor, "pipeline": pipeline, "data": data, "stage": stage}
    gpus = tensor * pipeline * data
    none, full = on(gpus, **layout), on(gpus, **layout, recomputation="full")
    assert 0 < none.mfu < 1
    assert full.bytes.activations < none.bytes.activations
    assert full.seconds.total > none.seconds.total
    if stage < 3:
        more = on(gpus, **{**layout, "stage": stage + 1})
        assert more.bytes.states <= none.bytes.states


def test_a_plan_prints_what_it_costs() -> None:
    text = str(plan(GPT3, dgx_a100(1024), Layout(batch=1536, tensor=8, pipeline=8, data=16, recomputation="full")))
    assert "GPT-3 175B on 1024 × A100 80 GB: tensor 8 × context 1 × pipeline 8 × data 16, ZeRO stage 0" in text
    assert "96 micro-batches of 1, interleaving 1, recomputation full" in text
    assert "31.3 optimizer" in text
    assert "does not fit" not in text
    assert "logits" not in text  # the fullest GPU is of the first pipeline rank
    assert "does not fit" in str(plan(GPT3, dgx_a100(1), Layout(batch=1)))


# Bad input


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ({"tensor": 4}, "needs 4 GPUs, but the cluster has 8"),
        ({"data": 0}, "data must be at least 1, but is 0"),
        ({"data": 8, "batch": 60}, "A batch of 60 cannot be shared by 8 data-parallel ranks in micro-batches of 1"),
        ({"data": 4, "pipeline": 2, "micro_batch": 3}, "4 × 3 must divide it"),
        ({"pipeline": 8, "interleaving": 2}, "The 1 layers of a pipeline rank cannot be cut into 2 pieces"),
        ({"data": 8, "interleaving": 2}, "interleaving needs a pipeline of at least 2 ranks"),
        ({"data": 8, "stage": 1, "shard": 3}, "8 data and context ranks cannot be cut into groups of 3"),
        ({"data": 8, "shard": 4}, "stage 0 shares out none"),
        ({"data": 8, "stage": 4}, "ZeRO has the stages 1, 2 and 3"),
        ({"data": 8, "recomputation": "some"}, "recomputation is one of none, selective, full, but not 'some'"),
        ({"data": 8, "recomputation": "selective"}, "FlashAttention keeps no scores"),
        ({"pipeline": 4, "data": 2, "recomputation": "full", "every": 3}, "a pipeline rank has 2 layers"),
        ({"data": 8, "every": 0}, "every must be at least 1, but is 0"),
        ({"data": 8, "recipe": "int4"}, "There is no recipe 'int4'"),
        ({"data": 8, "recipe": "FP8, Adam"}, "The planner does not know 8-bit products"),
        ({"data": 8, "expert": 2}, "The planner does not know expert parallelism"),
        (
            {"pipeline": 2, "data": 4, "batch": 12, "interleaving": 4},
            "interleaving needs a multiple of 2 micro-batches",
        ),
    ],
)
def test_a_layout_that_does_not_fit_is_one_sentence(layout: dict, sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        on(8, **layout)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_level_layouts_are_all_named_the_fastest_first() -> None:
    alike = planner.level(GPT3, dgx_a100(64), 512, tensor=8)
    assert alike[0] == planner.fastest(GPT3, dgx_a100(64), 512, tensor=8)
    assert len(alike) > 1
    assert all(each.fits and each.seconds.total <= 1.1 * alike[0].seconds.total for each in alike)
    assert {each.layout.micro_batch for each in alike} != {1}


def test_key_value_heads_are_not_copied() -> None:
    grouped = Model("grouped", 8, 1024, 16, key_value_heads=2)
    assert plan(grouped, dgx_a100(2), Layout(2, tensor=2)).seconds.total > 0
    with pytest.raises(ValueError, match="4 tensor ranks cannot share 2 key-value heads evenly"):
        plan(grouped, dgx_a100(4), Layout(4, tensor=4))


def test_uneven_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="3 tensor ranks cannot share 16 heads"):
        on(3, tensor=3)
    with pytest.raises(ValueError, match="8 layers cannot be shared by 3 pipeline ranks: choose a number that divides"):
        on(3, pipeline=3)
    with pytest.raises(ValueError, match="3 context ranks cannot share 2048 tokens"):
        on(3, context=3)
    with pytest.raises(ValueError, match="the cluster: gpus must be at least 1, but is 0"):
        dgx_a100(0)


def test_the_ends_of_a_pipeline_may_have_a_layer_less() -> None:
    """126 layers on 16 ranks, as Llama 3: 8 each, 7 at the ends. The output layer then costs no extra time."""
    layout = Layout(batch=32, tensor=8, pipeline=16)
    cluster = planner.grand_teton(128)
    uneven, even = plan(LLAMA3_405B, cluster, layout), plan(replace(LLAMA3_405B, layers=128), cluster, layout)
    assert uneven.seconds.total < even.seconds.total
    # 7 layers × 16 micro-batches on the first rank, 8 × 15 on the second, which is the fullest: 15/16 of 8 × 16.
    assert uneven.bytes.activations == pytest.approx(15 / 16 * even.bytes.activations)
    assert uneven.bytes.parameters == 2 * 8 * LLAMA3_405B.layer_parameters / 8


def test_ends_without_layers_bring_back_and_gather_none() -> None:
    """8 layers on 10 ranks: the ends have embedding and output layer alone. Computing again never takes more memory."""
    ends = {"pipeline": 10, "batch": 16, "micro_batch": 16}
    again, kept = (on(10, **ends, recomputation=how).bytes.total for how in ("full", "none"))
    assert again <= kept
    one_layer = replace(SMALL, layers=1)
    gathered = plan(one_layer, EIGHT, Layout(8, data=8, stage=3)).bytes.gathered
    assert gathered == 2 * one_layer.layer_parameters  # there is no second one to fetch ahead


def test_a_group_whose_size_does_not_divide_a_node_crosses_nodes() -> None:
    """Of groups of 3 in nodes of 8, the third has two GPUs in one node and one in the next. One node holds any."""
    model = replace(SMALL, width=960, heads=12, key_value_heads=12, feed_forward=3840, sequence=3072)
    nodes, node = dgx_a100(24), replace(EIGHT, gpus=3)
    across, inside = (plan(model, on, Layout(on.gpus // 3, tensor=3, data=on.gpus // 3)) for on in (nodes, node))
    assert across.seconds.tensor > 2 * inside.seconds.tensor
    assert {each.tensor for each in planner.layouts(model, nodes, 24)} == {1, 2, 4}
    assert {each.tensor for each in planner.layouts(model, node, 24)} == {1, 3}


def test_overlap_never_takes_longer() -> None:
    """One layer per rank hides nothing, and slows nothing down."""
    alone, beside = (on(16, pipeline=8, data=2, stage=2, overlap=how).seconds.total for how in (False, True))
    assert beside <= alone


def test_numbers_of_numpy_do_not_overflow() -> None:
    narrow = Model("narrow", np.int32(32), np.int32(4096), np.int32(32), sequence=np.int32(8192))
    assert narrow.model_flop == Model("wide", 32, 4096, 32, sequence=8192).model_flop
    few, many = Layout(np.int8(64), data=np.int8(8)), Layout(64, data=8)
    assert plan(SMALL, EIGHT, few).tokens_per_second == plan(SMALL, EIGHT, many).tokens_per_second


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda: Model("half", layers=1.5, width=8, heads=1), "half: layers must be a whole number, but is 1.5"),
        (lambda: Model("text", layers="2", width=8, heads=1), "text: layers must be a whole number, but is '2'"),
        (lambda: Model("less", 1, 8, 1, feed_forward=-8), "less: feed_forward must be at least 0, but is -8"),
        (lambda: Model("less", 1, 8, 4, key_value_heads=-2), "less: key_value_heads must be at least 0, but is -2"),
        (lambda: dgx_a100(1.5), "the cluster: gpus must be a whole number, but is 1.5"),
        (lambda: replace(EIGHT, network=0), "the cluster: network must be a number above 0, but is 0"),
        (lambda: replace(EIGHT, link=float("nan")), "the cluster: link must be a number above 0, but is nan"),
        (lambda: replace(planner.A100, flops=0.0), "A100 80 GB: flops must be a number above 0, but is 0.0"),
        (lambda: on(8, data=8, batch="8"), "the layout: batch must be a whole number, but is '8'"),
        (lambda: on(8, data=8, batch=8.0), "batch must be a whole number, but is 8.0. Divide with //"),
        (lambda: on(8, data=8, stage=True), "the layout: stage must be a whole number, but is True"),
        (lambda: on(8, data=8, recipe=None), "There is no recipe None"),
        (lambda: on(8, data=8, overlap="no"), "the layout: overlap must be True or False, but is 'no'"),
        (lambda: plan(replace(SMALL, sequence=2052), EIGHT, Layout(8, tensor=8)), "8 tensor ranks cannot share 2052"),
        (lambda: replace(EIGHT, gpu="A100"), "the cluster: gpu must be of the class GPU, but is 'A100'"),
        (lambda: replace(EIGHT, efficiency=0.8), "efficiency must be of the class Efficiency, but is 0.8"),
        (lambda: on(8, data=8, expert=True), "the layout: expert must be a whole number, but is True"),
        (lambda: Model("text", 1, 8, 1, gated="yes"), "text: gated must be True or False, but is 'yes'"),
        (lambda: replace(EIGHT.efficiency, matmul=0), "the efficiency: matmul must be a number above 0, but is 0"),
        (lambda: replace(EIGHT.efficiency, link=79), "link is a share, at most 1, but is 79: 79% is 0.79"),
        (lambda: replace(EIGHT.efficiency, traffic=-1), "traffic must be a number of at least 0, but is -1"),
        (lambda: replace(EIGHT, link=300), "the cluster: link is in bytes per second, so 300 is too few"),
        (lambda: replace(EIGHT, network_latency=14), "network_latency is in seconds, so 14 is too many"),
        (lambda: replace(planner.A100, memory=80), "A100 80 GB: memory is in bytes, so 80 is too few"),
        (lambda: replace(planner.A100, flops=312), "in floating-point operations per second, so 312 is too few"),
        (lambda: plan(EIGHT, SMALL, Layout(8)), "where it expects a Model, it got Cluster"),
        (lambda: plan(SMALL, EIGHT, 8), "where it expects a Layout, it got int"),
        (lambda: planner.fastest(EIGHT, SMALL, 8), "where it expects a Model, it got Cluster"),
        (
            lambda: planner.fastest(SMALL, EIGHT, 8, tp=8),
            "A layout has no 'tp'. What can be fixed is micro_batch, data",
        ),
        (lambda: planner.fastest(SMALL, EIGHT, 8, every=9), "every is 9, but small has 8 layers"),
    ],
)
def test_odd_numbers_are_one_sentence(given: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        given()
    assert sentence in str(error.value)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 1e-9), (1e-5, 0.0)])
def test_a_machine_whose_fit_has_no_latency_or_no_end_of_bandwidth_is_planned(alpha: float, beta: float) -> None:
    """`fit_alpha_beta` cuts both at 0."""
    cluster = as_cluster([(1e11, 1e10, AlphaBeta(alpha, beta, 2))] * 2, ranks=2)
    seconds = plan(SMALL, cluster, Layout(8, data=2, overlap=False, recipe="float32, SGD")).seconds
    assert 0 < seconds.data < seconds.total


def test_numbers_of_numpy_are_numbers() -> None:
    cluster = replace(EIGHT, link=np.float32(300e9), gpus=np.int64(8))
    assert plan(SMALL, cluster, Layout(np.int64(64), data=8)).seconds.total == pytest.approx(
        on(8, data=8).seconds.total
    )


# Search


@pytest.mark.slow
def test_the_example_at_the_top_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """The indented lines of the package's docstring."""
    lines = [line.strip() for line in planner.__doc__.splitlines() if line.startswith("    ")]
    names = {name: getattr(planner, name) for name in planner.__all__}
    exec("\n".join(lines), names)
    assert "GPT-3 175B on 1024 × A100 80 GB" in capsys.readouterr().out
    assert names["best"].fits


@pytest.mark.slow
def test_the_fastest_is_the_fastest_of_all_that_fit() -> None:
    model = Model("medium", layers=24, width=4096, heads=32)
    best = planner.fastest(model, EIGHT, batch=32)
    everything = [plan(model, EIGHT, layout) for layout in planner.layouts(model, EIGHT, 32)]
    fitting = [each for each in everything if each.fits]
    assert len(everything) > len(fitting) > 1
    assert best.fits
    assert best.seconds.total == min(each.seconds.total for each in fitting)


@pytest.mark.parametrize("batch", [32, 128])
def test_tensor_parallelism_pays_up_to_the_size_of_a_node(batch: int) -> None:
    """Narayanan et al. 2021, figure 13: of tensor × pipeline = 64 GPUs, 8 × 8 is the fastest."""
    model = Model("GPT 162.2B", layers=32, width=20480, heads=128)
    cluster = dgx_a100(64)
    seconds = {}
    for tensor in (2, 4, 8, 16, 32):
        layout = Layout(batch, tensor=tensor, pipeline=64 // tensor, recomputation="full", flash_attention=False)
        seconds[tensor] = plan(model, cluster, layout).seconds.total
    assert min(seconds, key=seconds.get) == 8


def test_the_search_keeps_what_is_fixed() -> None:
    best = planner.fastest(GPT3, dgx_a100(128), batch=128, tensor=4, recomputation="full", data=2)
    assert (best.layout.tensor, best.layout.recomputation, best.layout.data) == (4, "full", 2)
    assert planner.fastest(SMALL, SIXTEEN, batch=16, shard=8).layout.shard == 8
    assert best.layout.pipeline == 16


@pytest.mark.parametrize(
    ("fixed", "sentence"),
    [
        ({"recipe": "FP8, Adam"}, "The planner does not know 8-bit products"),
        ({"expert": 8}, "The planner does not know expert parallelism"),
        ({"recomputation": "some"}, "recomputation is one of"),
        ({"tensor": 0}, "tensor must be at least 1, but is 0"),
    ],
)
def test_what_is_fixed_and_never_possible_is_named_by_the_search(fixed: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        planner.fastest(SMALL, EIGHT, 8, **fixed)


@pytest.mark.slow
def test_a_model_that_fits_nowhere_says_how_much_it_needs() -> None:
    with pytest.raises(
        ValueError,
        match=r"even the smallest layout needs .* GiB per GPU, more than 97% of the 80 GiB of A100",
    ):
        planner.fastest(LLAMA3_405B, EIGHT, batch=8)
    with pytest.raises(ValueError, match=r"Take more GPUs, or leave free what is fixed \(stage, tensor\)\.$"):
        planner.fastest(LLAMA3_405B, EIGHT, batch=8, stage=0, tensor=1)
    with pytest.raises(ValueError, match="No layout spreads GPT-3 175B and a batch of 7 over 11 GPUs evenly"):
        planner.fastest(GPT3, dgx_a100(11), batch=7)
