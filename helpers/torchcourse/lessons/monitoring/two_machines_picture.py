"""The picture of two machines: which step each of them did, and when, through the death of a rank and of a machine."""

from torchcourse import figures
from torchcourse.figures import COLORS
from torchcourse.lessons.monitoring.two_machines import Story

_LOOK = {"A": ("o", COLORS["blue"]), "B": ("s", COLORS["orange"]), "C": ("^", COLORS["green"])}


def story_picture(story: Story | None, save_every: int = 5) -> None:
    """Show the steps of each machine over the time. Without a story, nothing is shown."""
    if story is None:
        return
    begin = story.rows[0]["time"]
    figure, axis = figures.new(height=3.4)
    for machine, (marker, color) in _LOOK.items():
        rows = [row for row in story.rows if row["machine"] == machine]
        if rows:
            shift = 0.25 * "ABC".index(machine)  # so that two machines in one step are both seen
            axis.plot(
                [row["time"] - begin for row in rows],
                [row["step"] + shift for row in rows],
                marker,
                color=color,
                markersize=4,
                label=f"machine {machine}",
            )
    for step in range(save_every, 31, save_every):
        axis.axhline(step, color=COLORS["gray"], linewidth=0.5, linestyle=":")
    for who, when in story.deaths.items():
        axis.axvline(when - begin, color=COLORS["vermillion"], linestyle="--")
        axis.text(when - begin, 1, f" the {who} dies", fontsize=9)
    done = [step for _, first, last in story.starts() for step in range(first, last + 1)]
    twice = len(done) - len(set(done))
    seconds = story.rows[-1]["time"] - begin
    axis.set(xlabel="seconds", ylabel="step (dotted: saved)")
    axis.legend(frameon=False, loc="upper left")
    again = f"{twice} step was" if twice == 1 else f"{twice} steps were"
    finding = f"{len(story.starts())} starts in {seconds:.1f} s, and {again} done twice"
    axis.set_title(finding)
    starts = ", then ".join(
        f"{ranks} rank{'s' if ranks > 1 else ''} did steps {a} to {b}" for ranks, a, b in story.starts()
    )
    figures.show(figure, f"Steps over time. {finding}: {starts}.")
