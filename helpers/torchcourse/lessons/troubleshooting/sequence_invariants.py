"""Invariants of sequences: padding, attention, and what a recurrence reads. Each rule yields alarms."""

import math
from collections.abc import Iterator

import torch

from torchcourse.lessons.troubleshooting.data_invariants import hashes, may_be_windows, of_one_series, parts_of
from torchcourse.lessons.troubleshooting.training_records import Loss, Pass, float_inputs, inputs_of
from torchcourse.lessons.troubleshooting.watched_run import Alarm, WatchedRun, listed

PADDED_AT_LEAST = 0.2  # of the sentences, before a state that is read after the padding matters
PLACES_AT_LEAST = 8  # that a mask keeps, and that it leaves out
FORETOLD = 0.95  # of the targets are the next input, where sentences are foretold
VALUES_AT_LEAST = 32  # different ones in a batch of windows
CELLS_AT_LEAST = 12  # calls of recurrent cells that went on from the one before
WORDS_AT_LEAST = 20  # times that a token stands among others, before it is taken for a word


def padding(run: WatchedRun) -> Iterator[Alarm]:
    """What fills the sentences up to one length does not count."""
    counted = filled = found = 0
    fillers = set()
    for loss in run.losses:
        # The pass with as many tokens as there are targets says where the sentences end.
        table = _by_sentence(loss, inputs_of(seen for seen in run.trained if seen.step == loss.step))
        value = None if table is None else filler(table)
        if loss.reduction == "none" and value is not None and not _divided_by_all(run, loss, value):
            value = None
        if table is None or value is None or value == loss.ignored:
            continue
        fillers.add(value)
        found, counted, filled = found + 1, counted + table.numel(), filled + int((table == value).sum())
    if found >= 3 and len(fillers) == 1 and filled > 0.02 * counted:
        yield Alarm(
            "padding_counted",
            f"Class {min(fillers)} stands only at the ends of sentences, up to the longest one: "
            f"{filled / counted:.0%} of all targets, and the loss counts them or divides by their "
            f"number. Give it ignore_index={min(fillers)}.",
        )


def _divided_by_all(run: WatchedRun, loss: Loss, filler: int) -> bool:
    """Whether a loss per token was masked where it is filled up, and then divided by the number of all."""
    step = run.steps[loss.step] if loss.step < len(run.steps) else None
    if step is None or len(step.backwards) != 1:
        return False
    each = loss.function(loss.scores.float(), loss.target, reduction="none", ignore_index=loss.ignored)
    masked = each[loss.target != filler].sum().item() / each.numel()
    return abs(step.backwards[0] - masked) < 1e-3 * masked


def _by_sentence(loss: Loss, inputs: list[torch.Tensor]) -> torch.Tensor | None:
    """Return the targets as [sentences, tokens], if that is what they are."""
    if not loss.has_classes:
        return None
    if loss.target.dim() == 2:
        return loss.target
    shapes = [batch.shape[:2] for batch in inputs if batch.shape[:2].numel() == loss.target.numel() and batch.dim() > 1]
    return loss.target.view(shapes[0]) if shapes and loss.target.dim() == 1 else None


def filler(table: torch.Tensor) -> int | None:
    """Return the class that stands at the ends of sentences and nowhere else, in runs of different lengths."""
    values, counts = table[:, -1].unique(return_counts=True)
    value = values[counts.argmax()]
    same = (table == value).long()
    runs = same.flip(1).cumprod(dim=1).sum(dim=1)
    different = len(runs.unique()) >= 3 and int((runs >= 2).sum()) >= 2 and int(runs.min()) < table.size(1)
    return int(value) if different and int(same.sum()) == int(runs.sum()) else None


def attention(run: WatchedRun) -> Iterator[Alarm]:
    """Attention's weights add up to 1 over what it sums."""
    apart = run.sequences.apart
    if len(apart) >= 3:
        axis, shape = next(iter(apart.values()))
        yield Alarm(
            "softmax_over_other_axis",
            f"In {len(apart)} steps weights {shape} were multiplied with values after a softmax over dimension {axis}, "
            "and the product sums another one: its weights do not add up to 1. Is it to be softmax(dim=-1)?",
        )


def masks(run: WatchedRun) -> Iterator[Alarm]:
    """A mask leaves out the padding, and keeps the words."""
    wrong = 0
    for step, left_out in run.sequences.masks:
        for tokens in _tables([seen for seen in run.trained if seen.step == step]):
            if tokens.shape != left_out.shape:
                continue
            kept, hidden = tokens[~left_out], tokens[left_out]
            enough = min(len(kept), len(hidden)) >= PLACES_AT_LEAST
            if enough and len(kept.unique()) == 1 and not (hidden == kept[0]).any():
                wrong += 1
                only, others = int(kept[0]), len(hidden.unique())
                break
    if wrong >= 3:
        yield Alarm(
            "mask_inverted",
            f"{wrong} times attention was told to leave out {others} different tokens, and all that it could still see "
            f"was token {only}. In a key_padding_mask, and in masked_fill, True means: leave it out.",
        )


def mask_of_numbers(run: WatchedRun) -> Iterator[Alarm]:
    """A mask leaves out: it is True or False, or −inf."""
    if run.sequences.numbers >= 3:
        yield Alarm(
            "mask_of_numbers",
            f"{run.sequences.numbers} times attention got a mask of the numbers 0 and 1. Numbers are added to "
            "the scores, so nothing is left out. Give it as bool, where True means to leave out (in "
            "scaled_dot_product_attention, to keep).",
        )


def windows(run: WatchedRun) -> Iterator[Alarm]:
    """Windows that are validated on do not lie within those that were trained on before."""
    trained = [seen for seen in run.trained if _is_window(seen.inputs)]
    validated = [seen for seen in run.validated_on if _is_window(seen.inputs)]
    if not trained or not validated or not of_one_series(float_inputs(trained)):
        return
    shape = float_inputs(trained)[0].shape[1:]
    known: dict[float, int] = {}  # of each part of a window, the step that took it first
    for seen, parts in _parts(trained, shape):
        for key in parts.flatten().tolist():
            known.setdefault(key, seen.step)
    both = [
        max(known.get(key[0], seen.step), known.get(key[-1], seen.step)) < seen.step
        for seen, parts in _parts(validated, shape)
        for key in parts.tolist()
    ]
    if sum(both) > max(0.5 * len(both), WORDS_AT_LEAST):
        yield Alarm(
            "windows_overlap",
            f"Of {sum(both)} of {len(both)} windows that were validated on, beginning and end are inside windows that "
            "were trained on: the series was cut into overlapping windows and then split. Split by time first.",
        )


def _is_window(batch: torch.Tensor | None) -> bool:
    """Whether samples may be windows of a series: not those of a table of a few values, which are alike by chance."""
    if batch is None or not batch.is_floating_point() or not may_be_windows(batch):
        return False
    return len(batch.unique()) >= VALUES_AT_LEAST


def _parts(passes: list[Pass], shape: torch.Size) -> Iterator[tuple[Pass, torch.Tensor]]:
    """Yield the passes with windows of this shape, with a number for each half of each of their windows."""
    for seen in passes:
        if seen.inputs is not None and seen.inputs.shape[1:] == shape:
            yield seen, _halves(seen.inputs, shape[0] // 2)


def _halves(batch: torch.Tensor, size: int) -> torch.Tensor:
    """Return a number for each part of so many times of each window [N, T] or [N, T, C]: [N, T − size + 1].

    Of a part in which nothing happens, NaN: it is like others by chance.
    """
    parts = parts_of(batch, size).flatten(0, 1)
    numbers = torch.tensor(hashes(parts), dtype=torch.float64)
    return numbers.masked_fill(parts.amax(1) == parts.amin(1), math.nan).view(len(batch), -1)


def _filled(run: WatchedRun, length: int) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield tables of tokens [samples, length] that are filled up, with the token that fills them."""
    for table in _tables(run.trained):
        fills = filler(table) if table.size(1) == length else None
        if fills is not None:
            yield table, fills


def _tables(passes: list[Pass]) -> Iterator[torch.Tensor]:
    """Yield the tokens [samples, time] that these passes got; of measured numbers, where they are not all 0."""
    for inputs in inputs_of(passes):
        if inputs.numel() and inputs.dim() == 2 and not inputs.is_floating_point():
            yield inputs
        elif inputs.numel() and inputs.dim() == 3 and inputs.is_floating_point():
            yield (inputs != 0).any(dim=2).long()


def padding_index(run: WatchedRun) -> Iterator[Alarm]:
    """The token that an embedding keeps at 0 is the one that fills the sentences."""
    counts: dict[tuple[int, int], int] = {}
    for tokens, index in run.sequences.looked_up:
        fills = filler(tokens)
        if fills is not None and fills != index:
            counts[fills, index] = counts.get((fills, index), 0) + int((tokens == index).sum())
    for (fills, index), count in counts.items():
        if count >= WORDS_AT_LEAST and len(counts) == 1:
            yield Alarm(
                "padding_is_a_word",
                f"An embedding has padding_idx={index}, so that token never learns, and it stands {count} times among "
                f"the words. What fills the sentences is token {fills}.",
            )


def state_read(run: WatchedRun) -> Iterator[Alarm]:
    """The state that is read of a recurrence is that after the last word."""
    for name, reading in run.sequences.readings.items():
        if reading.at_end < 3 or reading.elsewhere:
            continue
        ends = [(table[:, -1] == fills).float().mean().item() for table, fills in _filled(run, reading.length)]
        share = sum(ends) / len(ends) if ends else 0.0
        if len(ends) >= 3 and share > PADDED_AT_LEAST:
            yield Alarm(
                "state_after_padding",
                f"Of what {listed([name])} puts out, only the last step is read, and in {share:.0%} of the sentences "
                "that one belongs to the padding. Pack them (pack_padded_sequence), or read each at its own length.",
            )


def state_carried(run: WatchedRun) -> Iterator[Alarm]:
    """A state that is carried from batch to batch belongs to sentences that go on."""
    carried = set(run.sequences.carried)
    goes_on = breaks_off = 0
    ends: torch.Tensor | None = None
    tables = [seen for seen in run.trained if seen.inputs is not None and seen.inputs.dim() == 2]
    targets = {loss.step: loss.target for loss in run.losses if not loss.target.is_floating_point()}
    for seen in tables:
        tokens, target = seen.inputs, targets.get(seen.step)
        if tokens is None or target is None or target.numel() != tokens.numel() or tokens.is_floating_point():
            return
        target = target.reshape(tokens.shape)
        if tokens.size(1) < 3 or (target[:, :-1] == tokens[:, 1:]).float().mean() < FORETOLD:
            return
        if ends is not None and seen.step in carried and len(ends) == len(tokens):
            goes_on += int((ends == tokens[:, 0]).sum())
            breaks_off += int((ends != tokens[:, 0]).sum())
        ends = target[:, -1]
    share = breaks_off / max(goes_on + breaks_off, 1)
    if share > 0.5 and len(carried) >= 3:
        yield Alarm(
            "state_of_others",
            f"In {len(carried)} steps a recurrence began with the state that the batch before had left, and "
            f"{share:.0%} of the sentences do not go on from there. Begin with none, or deal out the text in order.",
        )


def state_cut(run: WatchedRun) -> Iterator[Alarm]:
    """A recurrence learns from earlier steps: its state carries the gradient back."""
    cells = run.sequences.cells
    if len(cells) >= CELLS_AT_LEAST and all(cells):
        yield Alarm(
            "state_cut",
            f"In {len(cells)} calls a recurrent cell went on from the state that it had left, and each time that state "
            "carried no gradient: nothing is learned from earlier steps. Detach between batches, not between steps.",
        )


def over_classes(run: WatchedRun) -> Iterator[Alarm]:
    """A softmax of the model's scores runs over the classes."""
    if run.sequences.over_batch >= 3:
        yield Alarm(
            "softmax_over_batch",
            f"{run.sequences.over_batch} times a softmax of outputs ran over the samples. Is it to be dim=1?",
        )
