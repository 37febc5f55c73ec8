"""Checks of lesson 02 on the formulas of a planner: bytes of a GPU, utilizations, seconds of a step."""

from collections.abc import Callable
from itertools import permutations

from torchcourse.checks import Wrong, check
from torchcourse.checks.kit import AnyOf, is_rounded, numbers_of, refuse_known, same
from torchcourse.lessons.data_parallelism.checks.memory_and_time import judge_shares, refuse_bytes_per_parameter
from torchcourse.lessons.data_parallelism.memory import zero_memory
from torchcourse.lessons.model_parallelism.planner import GPT3, Layout, Model
from torchcourse.lessons.model_parallelism.planner.memory import layer_activations
from torchcourse.units import counted, times

_CLOSE = 1e-6  # relative


@check
def gpu_bytes(learner: Callable) -> str:
    """Compare states and activations with the planner's formulas, for all ZeRO stages, with and without recomputing."""
    for case in _BYTES_CASES:
        given = numbers_of(learner(*case), 4, _PARTS)
        _judge_states(given, case)
        _judge_activations(given[3], case)
    return (
        f"All four parts, checked on {len(_BYTES_CASES)} layouts of two models: ZeRO 0 to 3, long and short pipelines."
    )


@check
def utilisations(learner: Callable) -> str:
    """Compare with the FLOP of a token, for the model and for the hardware."""
    for case in _UTILIZATION_CASES:
        _judge_utilizations(numbers_of(learner(*case), 2, "MFU and HFU"), case)
    return "MFU and HFU, with and without computing again, for short and for long sequences."


@check
def step_seconds(learner: Callable) -> str:
    """Compare bubble and total, for plain and interleaved pipelines and for one rank."""
    for case in _STEP_CASES:
        _judge_step(numbers_of(learner(*case), 2, "the bubble and the whole step"), case)
    return (
        f"Bubble and step, checked on {len(_STEP_CASES)} layouts: with and without pieces, and a pipeline of one rank."
    )


# The bytes of a GPU

_SMALL = Model("small", layers=24, width=1024, heads=16, sequence=512)
_PARTS = "parameters, gradients, optimizer, activations"
_BYTES_CASES = [
    # model, tensor, pipeline, data, ZeRO stage, micro-batches, computed again
    (_SMALL, 1, 1, 1, 0, 1, False),
    (_SMALL, 2, 3, 4, 1, 2, False),
    (GPT3, 8, 6, 16, 0, 96, False),
    (GPT3, 8, 6, 16, 2, 96, False),
    (GPT3, 4, 6, 5, 3, 20, True),
    (GPT3, 2, 12, 3, 1, 5, True),
]


def _case_name(case: tuple) -> str:
    model, tensor, pipeline, data, stage, micro_batches, again = case
    return (
        f"{model.name}, tensor {tensor} × pipeline {pipeline} × data {data}, ZeRO {stage}, "
        f"{micro_batches} micro-batch{'es' * (micro_batches > 1)}, layers {'' if again else 'not '}computed again: "
    )


def _states(parameters: float, data: int, stage: int) -> list[float]:
    each = zero_memory(parameters, data, stage)
    return [each.parameters, each.gradients, each.optimizer]


def _judge_states(everything: list[float], case: tuple) -> None:
    given = everything[:3]
    model, tensor, pipeline, data, stage, *_ = case
    whole, ranks = model.layers * model.layer_parameters, tensor * pipeline
    own = whole / ranks
    right, where = _states(own, data, stage), _case_name(case)
    if same(given, right, _CLOSE):
        return
    if same(given, [part / model.layers for part in right], _CLOSE):
        raise Wrong("one_layer", f"{where}you count one layer, of {model.layers}. `layer_parameters` is of one layer.")
    known = {
        "embeddings_counted": (
            _states(model.parameters / ranks, data, stage),
            "`model.parameters` counts the embeddings, too. Here all parameters are in the layers.",
        )
    }
    refuse_known(given, known, _CLOSE, where=where)
    if any(same(three, right, _CLOSE) for three in permutations(everything, 3)):
        raise Wrong("order", f"{where}the right numbers in a different order: return {_PARTS}.")
    if (tensor, pipeline, data) == (1, 1, 1):
        refuse_bytes_per_parameter([part / own for part in given], where)
    for divisor in (1, tensor, pipeline):
        if same(given, _states(whole / divisor, data, stage), _CLOSE):
            raise Wrong(
                "not_divided",
                f"{where}you divide the parameters of all layers by {divisor}. The tensor ranks share out each layer, "
                "and a stage has some of the layers: how much of the model has one GPU?",
            )
    known = {
        "data_divides_all": (
            _states(own / data, 1, 0),
            "data-parallel ranks divide everything in your count. What do they share out at this stage?",
        )
    }
    refuse_known(given, known, _CLOSE, where=where)
    if data > 1:
        _refuse_other_ranks(given, right, case)
    factor = given[0] / right[0]
    if same(given, [factor * part for part in right], _CLOSE) and not same(factor, 1 / data, _CLOSE):
        raise Wrong(
            "wrong_states",
            f"{where}all three states are {times(factor)} what they should be. Count the parameters of one GPU first: "
            "all layers, divided by the ranks that share them.",
        )
    judge_shares(given, right, _states(own, data, 0), data, where)


def _refuse_other_ranks(given: list[float], right: list[float], case: tuple) -> None:
    """Refuse states that are shared out among other ranks than the data-parallel ones."""
    _, tensor, pipeline, data, stage, *_ = case
    others = {tensor, pipeline, tensor * pipeline, data * tensor, data * pipeline, data * tensor * pipeline} - {data}
    names = ("parameters", "gradients", "optimizer numbers")
    for name, first, ours, wanted in zip(names, (3, 2, 1), given, right, strict=True):
        for ranks in sorted(others) if stage >= first and not same(ours, wanted, _CLOSE) else ():
            if same(ours, wanted * data / ranks, _CLOSE):
                raise Wrong(
                    "shared_over_others",
                    f"{_case_name(case)}you divide the {name} of a GPU by {ranks}. ZeRO shares out among the ranks "
                    "that hold the *same* part of the model. How many are these?",
                )


def _judge_activations(given: float, case: tuple) -> None:
    model, tensor, pipeline, _, _, micro_batches, again = case
    inside = layer_activations(model, Layout(1, tensor=tensor))  # bytes of a layer, and of its input alone
    inputs = layer_activations(model, Layout(1, tensor=tensor, recomputation="full"))
    stage, least, where = model.layers / pipeline, min(pipeline, micro_batches), _case_name(case)

    def total(
        kept: float = inputs if again else inside,
        layers: float = stage,
        under_way: int = least,
        working: float = inside - inputs if again else 0.0,
    ) -> float:
        return kept * layers * under_way + working

    right = total()
    if same(given, right, _CLOSE):
        return
    for count in (micro_batches, 1, pipeline):
        if same(given, total(under_way=count), _CLOSE):
            raise Wrong(
                "under_way",
                f"{where}you count {count} micro-batch{'es' * (count > 1)} as under way. How many has the first rank "
                "of 1F1B at its worst moment?",
            )
    for count in (model.layers, 1):
        if same(given, total(layers=count), _CLOSE):
            raise Wrong("layers", f"{where}you count {counted(count, 'layer')}. How many has one stage?")
    refuse_known(given, _known_activations(total, inside, inputs, case), _CLOSE, where=where)
    raise Wrong(
        "wrong_activations",
        f"{where}your activations are {times(given / right)} what they should be. Bytes that a layer keeps, times "
        "layers of the stage, times micro-batches under way"
        + (", and once the inside of the layer that is computed again." if again else "."),
    )


def _known_activations(total: Callable[..., float], inside: float, inputs: float, case: tuple) -> dict:
    """Return what known mistakes give; `inside` and `inputs` are the bytes of a layer and of its input alone."""
    model, tensor, pipeline, data, _, micro_batches, again = case
    layers, under_way = model.layers / pipeline, min(pipeline, micro_batches)
    again_known = {
        "working_forgotten": (
            total(working=0),
            "you count the inputs only. While a layer is computed again, its inside is there, too.",
        ),
        "nothing_saved": (total(inside, working=0), "that is without computing again. What does a layer keep now?"),
        "input_counted_twice": (
            total(working=inside),
            "one layer's input is counted twice: it is among the inputs already.",
        ),
        "inside_more_than_once": (
            AnyOf([total(working=(inside - inputs) * times) for times in (layers, under_way)]),
            "one layer of one micro-batch is computed again at a time. How often is its inside there?",
        ),
    }
    dry = inside * 32 / 34
    known = {
        "tensor_ignored_in_activations": (
            AnyOf((tensor * total(), total(working=tensor * (inside - inputs) * again))),
            "the tensor ranks share out the activations, too, also those inside a layer that is computed again.",
        ),
        "data_divides_activations": (
            total() / data,
            "data-parallel ranks share out no activations: each has samples of its own.",
        ),
        "dropout_forgotten": (
            total(working=dry - inputs) if again else total(dry),
            "you count 32·s·h bytes in a layer. This model has dropout, and its masks are the other two of the 34.",
        ),
        "computed_again": (
            total(inputs, working=inside - inputs),
            "that is with computing again, and `again` is False here.",
        ),
    }
    return again_known | known if again else known


# Utilizations

_UTILIZATION_CASES = [
    # parameters, layers, width, sequence, tokens per second and GPU, peak, computed again
    (7e9, 32, 4096, 2048, 3000.0, 312e12, False),
    (7e9, 32, 4096, 2048, 3000.0, 312e12, True),
    (1.3e9, 24, 2048, 65_536, 2500.0, 312e12, True),
    (405e9, 126, 16_384, 8192, 160.0, 989e12, False),
]


def _judge_utilizations(given: list[float], case: tuple) -> None:
    parameters, layers, width, sequence, tokens, peak, again = case
    rate, scores = tokens / peak, 4 * layers * width * sequence
    forward = rate * (2 * parameters + scores)
    model = 3 * forward
    hardware = 4 * forward if again else model
    mfu, hfu = given
    if same(given, [model, hardware], _CLOSE):
        return
    where = (
        f"{parameters / 1e9:g} billion parameters, {sequence:,} tokens per sequence, layers "
        f"{'' if again else 'not '}computed again: "
    )
    if max(given) > 1.5:
        percent = "a share between 0 and 1 was asked for, not percent."
        refuse_known(mfu, {"percent": (100 * model, percent)}, _CLOSE, where=where)
        raise Wrong(
            "not_a_share",
            f"{where}you return {mfu:.3g} and {hfu:.3g}, and a share is below 1. Are these the FLOP of one token, with "
            "`parameters` of all layers, is everything per second, and is the peak below the line?",
        )
    swapped = "the two are swapped: which of them can be the larger one?"
    refuse_known(given, {"swapped": ([hardware, model], swapped)}, _CLOSE, where=where)
    if not same(mfu, model, _CLOSE):
        known = {
            "forward_only": (forward, "that is the forward pass alone. What does the backward pass cost?"),
            "backward_once": (
                2 * forward,
                "the backward pass makes two gradients, those of the inputs and those of the weights.",
            ),
            "no_attention": (rate * 6 * parameters, "the weights are right; the attention scores are left out."),
            "attention_once": (rate * (6 * parameters + scores), "the scores go through the backward pass, too."),
            "one_layers_scores": (rate * (6 * parameters + 3 * scores / layers), "each *layer* has scores."),
            "recomputation_counts": (
                AnyOf([4 * forward, rate * (8 * parameters + 3 * scores)]),
                "the MFU counts what the *model* needs. Does it need a layer twice?",
            ),
        }
        if again:
            known["recomputation_taken_out"] = (
                0.75 * model,
                "you take a forward pass out, and the 6 FLOP per parameter hold none twice: the *model* needs them.",
            )
        refuse_known(mfu, known, _CLOSE, where=where)
        _refuse_rounded(mfu, model, where)
        raise Wrong(
            "wrong_mfu",
            f"{where}your MFU is {times(mfu / model)} what it should be. Begin with the FLOP of a token.",
        )
    _judge_hfu(hfu, case, where)


def _judge_hfu(hfu: float, case: tuple, where: str) -> None:
    """Refuse the HFU, where the MFU is right and the two are not."""
    parameters, layers, width, sequence, tokens, peak, again = case
    rate, scores = tokens / peak, 4 * layers * width * sequence
    model, hardware = (passes * rate * (2 * parameters + scores) for passes in (3, 4))
    if not again:
        raise Wrong(
            "recomputation_always", f"{where}nothing is computed twice here, but your HFU differs from your MFU."
        )
    known = {
        "hfu_is_mfu": (
            model,
            "the HFU is the MFU. What does the hardware do here that the model needs no second time?",
        ),
        "scores_not_again": (
            rate * (8 * parameters + 3 * scores),
            "whole layers are computed again: their scores, too.",
        ),
    }
    refuse_known(hfu, known, _CLOSE, where=where)
    raise Wrong("wrong_hfu", f"{where}your HFU is {times(hfu / hardware)} what it should be. One more forward pass.")


def _refuse_rounded(given: float, right: float, where: str) -> None:
    if is_rounded(given, right):
        raise Wrong("rounded", f"{where}{given} is a rounded value. Return it as it was computed.")


# The seconds of a step

_STEP_CASES = [
    # compute, tensor, pipeline ranks, micro-batches, pieces, data
    (0.8, 0.12, 4, 16, 1, 0.09),
    (0.8, 0.12, 1, 16, 1, 0.09),
    (2.0, 0.5, 8, 32, 3, 0.0),
    (1.0, 0.0, 16, 8, 2, 0.2),
]


def _judge_step(given: list[float], case: tuple) -> None:
    compute, tensor, ranks, micro_batches, pieces, data = case
    work, others = compute + tensor, ranks - 1
    bubble = others / (pieces * micro_batches) * work
    if same(given, [bubble, work + bubble + data], _CLOSE):
        return
    where = (
        f"{compute} s compute, {tensor} s tensor, {ranks} rank{'s' * (ranks > 1)}, {micro_batches} micro-batches, "
        f"{pieces} piece{'s' * (pieces > 1)}, {data} s data: "
    )
    if same(given[::-1], [bubble, work + bubble + data], _CLOSE):
        raise Wrong("swapped", f"{where}the two are swapped: the bubble comes first, then the whole step.")
    if not same(given[0], bubble, _CLOSE):
        one = work / micro_batches  # seconds of a micro-batch on a rank
        known = {
            "share_of_all": (
                others / (pieces * micro_batches + others) * work,
                "your share is of work *and* waiting together. Compared with the work alone it is larger.",
            ),
            "share_returned": (
                AnyOf([bubble / (work + bubble), bubble / (work + bubble + data), bubble / work]),
                "you return a share. The seconds of the bubble are asked for.",
            ),
            "no_bubble": (0.0, "you have no bubble. For how many micro-batches does a rank wait?"),
            "compute_only": (
                others / pieces * compute / micro_batches,
                "the rank before is late by its messages, too.",
            ),
            "one_rank_too_many": (ranks / pieces * one, "a rank waits for the *others*. How many are these?"),
            "pieces": (
                AnyOf([others * one, others * pieces * one]),
                "a pipeline of small pieces fills and drains faster: more of them make the bubble shorter.",
            ),
            "whole_step_per_rank": (
                others / pieces * work,
                "a rank waits for p − 1 *micro-batches*, not for whole steps.",
            ),
        }
        refuse_known(given[0], known, _CLOSE, where=where)
        _refuse_rounded(given[0], bubble, where)
        raise Wrong(
            "wrong_bubble",
            f"{where}you have a bubble of {given[0]:.4g} s. How long is one micro-batch on a rank, and how many are "
            "waited for?",
        )
    forgotten = "the bubble is right; the average of the gradients is not in the step."
    refuse_known(given[1], {"data_forgotten": (work + bubble, forgotten)}, _CLOSE, where=where)
    raise Wrong(
        "wrong_total", f"{where}the bubble is right; your step of {given[1]:.4g} s is not the sum of its parts."
    )
