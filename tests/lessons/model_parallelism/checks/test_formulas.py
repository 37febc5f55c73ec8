"""The planner's formulas by different ways are accepted; each wrong one has its symptom."""

import pytest

from torchcourse.lessons.data_parallelism.memory import zero_memory
from torchcourse.lessons.model_parallelism.checks import formulas as check
from torchcourse.lessons.model_parallelism.planner import Layout
from torchcourse.lessons.model_parallelism.planner.memory import layer_activations
from verdicts import accepted, refused, todo

# gpu_bytes


def by_hand(model, tensor, pipeline, data, stage, micro_batches, again, *, share=None, states=None, **wrong):
    """The exercise's answer, with switches for its mistakes."""
    own = model.layers * model.layer_parameters / (share(tensor, pipeline, data) if share else tensor * pipeline)
    ranks = wrong.get("ranks", lambda t, p, d: d)(tensor, pipeline, data)
    sharded = [ranks if stage >= first else 1 for first in wrong.get("first", (3, 2, 1))]
    each = wrong.get("each", (2, 2, 12))
    numbers = [size * own / shared for size, shared in zip(each, sharded, strict=True)]
    of_a_token = model.sequence * model.width / tensor
    in_flight = wrong.get("in_flight", min)(pipeline, micro_batches)
    layers = wrong.get("layers", lambda count, p: count / p)(model.layers, pipeline)
    whole = wrong.get("keeps", 34)  # bytes that a layer keeps, per token and number of the width
    kept, working = (2, wrong.get("working", 32)) if again and not wrong.get("keeps_all") else (whole, 0)
    working *= wrong.get("inside", lambda layers, p, m: 1)(model.layers, pipeline, micro_batches)
    return *numbers, of_a_token * (kept * layers * in_flight + working) * wrong.get("times", lambda t: 1)(tensor)


def by_the_package(model, tensor, pipeline, data, stage, micro_batches, again):
    layout = Layout(micro_batches * data, 1, data, tensor, pipeline, recomputation="full" if again else "none")
    states = zero_memory(model.layers / pipeline * model.layer_parameters / tensor, data, stage)
    kept = layer_activations(model, layout)
    inside = layer_activations(model, layout, "none") - kept
    activations = kept * (model.layers // pipeline) * min(pipeline, micro_batches) + inside
    return [states.parameters, states.gradients, states.optimizer, activations]


def by_a_loop(model, tensor, pipeline, data, stage, micro_batches, again):
    sizes = {"weights": 2, "gradients": 2, "optimizer": 12}
    shared_from = {"weights": 3, "gradients": 2, "optimizer": 1}
    answer = []
    for part, size in sizes.items():
        parameters = sum(model.layer_parameters / tensor for _ in range(model.layers // pipeline))
        answer.append(size * parameters * (1 / data if shared_from[part] <= stage else 1))
    under_way, activations = 0, 0.0
    while under_way < pipeline and under_way < micro_batches:
        under_way += 1
        activations += (2 if again else 34) * model.sequence * model.width * model.layers / pipeline / tensor
    return (*answer, activations + (32 if again else 0) * model.sequence * model.width / tensor)


@pytest.mark.parametrize("answer", [by_hand, by_the_package, by_a_loop])
def test_gpu_bytes_accepts(answer):
    accepted(check.gpu_bytes(answer))


@pytest.mark.parametrize(
    ("wrong", "symptom"),
    [
        ({"each": (4, 4, 8)}, "bytes_per_parameter"),
        ({"each": (2 / 24, 2 / 24, 12 / 24)}, "one_layer"),
        ({"share": lambda t, p, d: 1}, "not_divided"),
        ({"share": lambda t, p, d: p}, "not_divided"),
        ({"share": lambda t, p, d: t}, "not_divided"),
        ({"share": lambda t, p, d: t * p * d, "ranks": lambda t, p, d: 1}, "data_divides_all"),
        ({"ranks": lambda t, p, d: t * p * d}, "shared_over_others"),
        ({"ranks": lambda t, p, d: p}, "shared_over_others"),
        ({"ranks": lambda t, p, d: t * d}, "shared_over_others"),
        ({"each": (2e-9, 2e-9, 12e-9)}, "unit"),
        ({"each": (2, 12, 2)}, "order"),
        ({"keeps": 32, "working": 30}, "dropout_forgotten"),
        ({"share": lambda t, p, d: 1, "ranks": lambda t, p, d: t * p * d}, "wrong_share"),
        ({"first": (4, 4, 4)}, "not_shared"),
        ({"first": (3, 1, 1)}, "shared_too_early"),
        ({"share": lambda t, p, d: t + p - 1}, "wrong_states"),
        ({"in_flight": lambda p, m: m}, "under_way"),
        ({"in_flight": lambda p, m: 1}, "under_way"),
        ({"in_flight": lambda p, m: p}, "under_way"),
        ({"layers": lambda layers, p: layers}, "layers"),
        ({"times": lambda t: t}, "tensor_ignored_in_activations"),
        ({"layers": lambda layers, p: 1}, "layers"),
        ({"working": 0}, "working_forgotten"),
        ({"keeps_all": True}, "nothing_saved"),
        ({"working": 34}, "input_counted_twice"),
        ({"inside": lambda layers, p, m: layers / p}, "inside_more_than_once"),
        ({"inside": lambda layers, p, m: min(p, m)}, "inside_more_than_once"),
        ({"times": lambda t: 0.7}, "wrong_activations"),
    ],
)
def test_gpu_bytes_refuses(wrong, symptom):
    refused(check.gpu_bytes(lambda *case: by_hand(*case, **wrong)), symptom)


def test_a_rank_is_not_said_to_keep_the_whole_model():
    by_zero_alone = {"share": lambda t, p, d: 1, "ranks": lambda t, p, d: t * p * d}
    message = check.gpu_bytes(lambda *case: by_hand(*case, **by_zero_alone)).message
    assert message.endswith("your parameters are 6 times what they should be. This stage does not share them out.")


def with_embeddings(model, tensor, pipeline, data, stage, *rest):
    states = zero_memory(model.parameters / tensor / pipeline, data, stage)
    activations = by_hand(model, tensor, pipeline, data, stage, *rest)[3]
    return states.parameters, states.gradients, states.optimizer, activations


def gradients_first(*case):
    parameters, gradients, *rest = by_hand(*case)
    return gradients, parameters, *rest


def activations_first(*case):
    *states, activations = by_hand(*case)
    return activations, *states


def again_the_other_way_round(*case):
    return by_hand(*case[:-1], not case[-1])


def divided_by_data(model, tensor, pipeline, data, *rest):
    *states, activations = by_hand(model, tensor, pipeline, data, *rest)
    return *states, activations / data


def inside_whole(model, tensor, pipeline, data, stage, micro_batches, again):
    *states, activations = by_hand(model, tensor, pipeline, data, stage, micro_batches, again)
    return *states, activations + again * 32 * model.sequence * model.width * (1 - 1 / tensor)


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (with_embeddings, "embeddings_counted"),
        (gradients_first, "order"),
        (activations_first, "order"),
        (again_the_other_way_round, "computed_again"),
        (divided_by_data, "data_divides_activations"),
        (inside_whole, "tensor_ignored_in_activations"),
    ],
)
def test_gpu_bytes_names_what_was_counted_in_place_of_what_was_asked(answer, symptom):
    refused(check.gpu_bytes(answer), symptom)


def only_the_parameters_over_all(*case):
    """ZeRO over all GPUs, for the parameters alone."""
    _, tensor, pipeline, _, stage, *_ = case
    parameters, *rest = by_hand(*case)
    return parameters / (tensor * pipeline if stage == 3 else 1), *rest


def test_gpu_bytes_says_by_how_many_zero_divided():
    verdict = check.gpu_bytes(only_the_parameters_over_all)
    refused(verdict, "shared_over_others")
    assert "by 120" in verdict.message  # tensor 4 × pipeline 6 × data 5


def test_gpu_bytes_says_how_much_too_large_all_parts_are():
    verdict = check.gpu_bytes(lambda *case: [part * 25 / 24 for part in by_hand(*case)])
    refused(verdict, "unit")
    assert "1.04 times what they should be" in verdict.message


def test_one_micro_batch_and_one_piece_are_no_plural():
    assert "1 micro-batch, " in check.gpu_bytes(lambda *case: (1, 1, 1, 1)).message
    assert "1 piece, " in check.step_seconds(lambda *case: (1, 1)).message


@pytest.mark.parametrize("again", [False, True])
def test_gpu_bytes_names_the_inside_only_where_layers_are_computed_again(again):
    verdict = check.gpu_bytes(lambda *case: by_hand(*case, times=lambda t: 0.7 if case[-1] == again else 1))
    refused(verdict, "wrong_activations")
    assert ("and once the inside" in verdict.message) == again


@pytest.mark.parametrize("answer", [lambda *case: 3.0, lambda *case: (1, 2, 3), lambda *case: None])
def test_gpu_bytes_wants_four_numbers(answer):
    refused(check.gpu_bytes(answer), "wrong_type")


# utilizations


def shares(parameters, layers, width, sequence, tokens, peak, again, *, weights=6, scores=12, extra=1, scale=1.0):
    attention = layers * width * sequence
    model = weights * parameters + scores * attention
    hardware = model + extra * (2 * parameters + 4 * attention) * again
    return scale * model * tokens / peak, scale * hardware * tokens / peak


def shares_by_passes(parameters, layers, width, sequence, tokens, peak, again):
    forward = 2 * parameters + sum(4 * width * sequence for _ in range(layers))
    return [forward * passes / (peak / tokens) for passes in (3, 4 if again else 3)]


def scores_not_again(parameters, layers, width, sequence, tokens, peak, again):
    scores = layers * width * sequence
    return [(count * parameters + 12 * scores) * tokens / peak for count in (6, 8 if again else 6)]


@pytest.mark.parametrize("answer", [shares, shares_by_passes])
def test_utilisations_accepts(answer):
    accepted(check.utilisations(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (lambda *case: shares(*case, weights=2, scores=4), "forward_only"),
        (lambda *case: shares(*case, weights=4, scores=8), "backward_once"),
        (lambda *case: shares(*case, scores=0), "no_attention"),
        (lambda *case: shares(*case, scores=4), "attention_once"),
        (lambda n, _, *rest: shares(n, 1, *rest), "one_layers_scores"),
        (lambda *case: shares(*case)[1:] * 2, "recomputation_counts"),
        (lambda *case: shares(*case)[::-1], "swapped"),
        (lambda *case: shares(*case)[:1] * 2, "hfu_is_mfu"),
        (lambda *case: shares(*case[:-1], True), "recomputation_always"),
        (lambda *case: shares(*case, scale=100), "percent"),
        (lambda *case: shares(*case, scale=case[5] / case[4]), "not_a_share"),
        (lambda *case: shares(*case, scale=case[3]), "not_a_share"),
        (lambda *case: [1 / share for share in shares(*case)], "not_a_share"),
        (lambda n, layers, *rest: shares(n, layers, *rest, weights=6 * layers), "not_a_share"),
        (lambda *case: (shares(*case)[0] * (3 / 4 if case[-1] else 1), shares(*case)[0]), "recomputation_taken_out"),
        (lambda *case: [round(share, 3) for share in shares(*case)], "rounded"),
        (lambda *case: shares(*case, scale=1.1), "wrong_mfu"),
        (lambda *case: shares(*case, extra=2), "wrong_hfu"),
        (scores_not_again, "scores_not_again"),
        (lambda *case: scores_not_again(*case)[1:] * 2, "recomputation_counts"),
        (lambda *case: shares(*case)[0], "wrong_type"),
    ],
)
def test_utilisations_refuses(answer, symptom):
    refused(check.utilisations(answer), symptom)


def test_a_share_that_is_almost_right_is_not_said_to_be_once_what_it_should_be():
    assert "your MFU is 1.0004 times" in check.utilisations(lambda *case: shares(*case, scale=1.0004)).message


# step_seconds


def step(compute, tensor, pipeline, micro_batches, pieces, data):
    bubble = (pipeline - 1) / (pieces * micro_batches) * (compute + tensor)
    return bubble, compute + tensor + bubble + data


def step_by_micro_batches(compute, tensor, pipeline, micro_batches, pieces, data):
    piece = (compute + tensor) / micro_batches / pieces
    rows = pieces * micro_batches + pipeline - 1
    return [rows * piece - (compute + tensor), rows * piece + data]


def step_with(bubble):
    def answer(compute, tensor, pipeline, micro_batches, pieces, data):
        waits = bubble(compute, tensor, pipeline, micro_batches, pieces, data)
        return waits, compute + tensor + waits + data

    return answer


@pytest.mark.parametrize("answer", [step, step_by_micro_batches])
def test_step_seconds_accepts(answer):
    accepted(check.step_seconds(answer))


@pytest.mark.parametrize(
    ("answer", "symptom"),
    [
        (step_with(lambda c, t, p, m, v, d: (p - 1) / (v * m + p - 1) * (c + t)), "share_of_all"),
        (step_with(lambda c, t, p, m, v, d: 0), "no_bubble"),
        (lambda *case: step_with(lambda c, t, p, m, v, d: (p - 1) / (v * m) * (c + t))(*case)[::-1], "swapped"),
        (step_with(lambda c, t, p, m, v, d: (p - 1) / (v * m) * c), "compute_only"),
        (step_with(lambda c, t, p, m, v, d: p / (v * m) * (c + t)), "one_rank_too_many"),
        (step_with(lambda c, t, p, m, v, d: (p - 1) / m * (c + t)), "pieces"),
        (step_with(lambda c, t, p, m, v, d: v * (p - 1) / m * (c + t)), "pieces"),
        (step_with(lambda c, t, p, m, v, d: (p - 1) * (c + t)), "whole_step_per_rank"),
        (step_with(lambda c, t, p, m, v, d: (p - 1) / (v * m) * (c + t + d)), "wrong_bubble"),
        (step_with(lambda c, t, p, m, v, d: 0.5), "wrong_bubble"),
        (step_with(lambda c, t, p, m, v, d: round((p - 1) / (v * m) * (c + t), 2)), "rounded"),
        (lambda *case: (step(*case)[0] / step(*case)[1], step(*case)[1]), "share_returned"),
        (lambda *case: (step(*case)[0], step(*case)[1] - case[-1]), "data_forgotten"),
        (lambda *case: (step(*case)[0], 1.0), "wrong_total"),
        (lambda *case: step(*case)[1], "wrong_type"),
    ],
)
def test_step_seconds_refuses(answer, symptom):
    refused(check.step_seconds(answer), symptom)


# all of them


@pytest.mark.parametrize("exercise", [check.gpu_bytes, check.utilisations, check.step_seconds])
def test_a_stub_is_not_done_yet(exercise):
    assert exercise(todo).state == "not done"
    assert exercise(...).state == "not done"
