"""The bytes of parameters that a rank holds in the course of a step, as measured by `FlatShards`."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from torchcourse.figures import COLORS, CYCLE, new
from torchcourse.lessons.data_parallelism.flat_shards import Event


def draw_held(runs: Mapping[str, Sequence[Event]], whole: int) -> Figure:
    """Draw the parameters that a rank holds (kB) after each gather and each free of a step, one line per setting.

    Args:
        runs: name of the setting → events of one step, in a model without prefetching first.
        whole: bytes of the parameters of the whole model, which a rank of DDP holds all the time.
    """
    figure, axis = new(height=3.4)
    for (name, events), color in zip(runs.items(), CYCLE, strict=False):
        held = [event.held / 1e3 for event in events if event.action in ("start gather", "freed")]
        places = [place / max(len(held) - 1, 1) for place in range(len(held))]
        axis.step(places, held, where="post", color=color, label=name)
    axis.axhline(whole / 1e3, color=COLORS["black"], linestyle="--", linewidth=1)
    axis.text(0.5, whole / 1e3, "DDP: the whole model, all the time", va="top", ha="center", fontsize=9)
    most = max(whole, *(event.held for events in runs.values() for event in events))
    axis.set(
        xlabel="course of the step: forward, then backward (one mark per gather or free)",
        ylabel="parameters on a rank (kB)",
        ylim=(0, 1.05 * most / 1e3),
    )
    axis.set_xticks([])
    axis.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(runs))
    axis.set_title(held_finding(runs, whole))
    return figure


def held_finding(runs: Mapping[str, Sequence[Event]], whole: int) -> str:
    """Say how much of the model each setting holds at most."""
    most = {name: max(event.held for event in events) / whole for name, events in runs.items()}
    return "At most, of the model: " + ", ".join(f"{share:.0%} ({name})" for name, share in most.items())
