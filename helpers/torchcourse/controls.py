"""What a reader can set in an explorer: sliders, choices and tick boxes.

A control is known before any widget is: only what shows one imports ipywidgets, so a host without it still has the
picture, and a value that is given by code is checked against the same limits.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torchcourse.live import CELL_KEYS

if TYPE_CHECKING:
    import ipywidgets as widgets


@dataclass(frozen=True)
class Slider:
    """A slider over numbers.

    Args:
        description: the words beside it.
        low, start, step: in the units of what is drawn.
        high: a number, or a function of the controls before this one that returns it.
    """

    description: str
    low: float
    high: float | Callable[..., float]
    start: float
    step: float

    def highest(self, earlier: Mapping[str, Any]) -> float:
        """Return the largest value, for these values of the controls before this one."""
        return self.high(**earlier) if callable(self.high) else self.high

    def refusal(self, value: Any, earlier: Mapping[str, Any]) -> str:
        """Say why a value cannot be set, empty where it can."""
        low, high = self.low, self.highest(earlier)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        whole = all(isinstance(each, int) for each in (low, high, self.step))
        if number and low <= value <= high and not (whole and value != int(value)):
            return ""
        kind = "a whole number" if whole else "a number"
        return f"is {kind} from {low:g} to {high:g}, and you gave {value!r}"

    def widget(self, earlier: Mapping[str, Any]) -> "widgets.Widget":
        """Return it as an ipywidget, for these values of the controls before this one."""
        import ipywidgets as widgets

        high = self.highest(earlier)
        whole = all(isinstance(number, int) for number in (self.low, high, self.start, self.step))
        kind = widgets.IntSlider if whole else widgets.FloatSlider
        limits = {"min": self.low, "max": high, "value": self.start, "step": self.step}
        return kind(**limits, description=self.description, continuous_update=True, **_look())


@dataclass(frozen=True)
class Choice:
    """One of several values, from a list that folds out or, with `slides`, along a slider."""

    description: str
    options: tuple[Any, ...]
    start: Any
    slides: bool = False

    def refusal(self, value: Any, earlier: Mapping[str, Any]) -> str:
        """Say why a value cannot be set, empty where it can."""
        listed = ", ".join(map(repr, self.options))
        return "" if value in self.options else f"is one of {listed}, and you gave {value!r}"

    def widget(self, earlier: Mapping[str, Any]) -> "widgets.Widget":
        """Return it as an ipywidget."""
        import ipywidgets as widgets

        kind = widgets.SelectionSlider if self.slides else widgets.Dropdown
        return kind(options=list(self.options), value=self.start, description=self.description, **_look())


@dataclass(frozen=True)
class Tick:
    """A tick box."""

    description: str
    start: bool

    def refusal(self, value: Any, earlier: Mapping[str, Any]) -> str:
        """Say why a value cannot be set, empty where it can."""
        return "" if isinstance(value, bool) else f"is True or False, and you gave {value!r}"

    def widget(self, earlier: Mapping[str, Any]) -> "widgets.Widget":
        """Return it as an ipywidget."""
        import ipywidgets as widgets

        return widgets.Checkbox(value=self.start, description=self.description, **_look())


Control = Slider | Choice | Tick


def control(name: str, spec: Any) -> Control:
    """Return the control that `spec` stands for in `explorer`: a tuple, a list, a truth value, or a control."""
    if isinstance(spec, Control):
        return spec
    description = name.replace("_", " ")
    if isinstance(spec, bool):
        return Tick(description, spec)
    if isinstance(spec, list):
        return Choice(description, tuple(spec), spec[0])
    low, high, start, *step = spec
    whole = all(isinstance(number, int) for number in spec)
    return Slider(description, low, high, start, step[0] if step else 1 if whole else (high - low) / 50)


def steps(description: str, low: int, high: int | Callable[..., int], start: int) -> Slider:
    """Return a slider over whole numbers; `high` may be a function of the controls before it."""
    return Slider(description, low, high, start, 1)


def values(description: str, options: Sequence[Any], start: Any) -> Choice:
    """Return a slider over the given values."""
    return Choice(description, tuple(options), start, slides=True)


def checked(controls: Mapping[str, Control], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a value for each control: the given one, else that of the start.

    Raises:
        ValueError: for a control that does not exist, or a value that it cannot be set to.
    """
    if unknown := [name for name in given if name not in controls]:
        raise ValueError(f"This picture has no control '{unknown[0]}'. It has: {', '.join(controls)}.")
    found: dict[str, Any] = {}
    for name, each in controls.items():
        if name in given and (refusal := each.refusal(given[name], found)):
            raise ValueError(f"'{name}' {refusal}.")
        found[name] = given.get(name, each.start)
    return found


def control_boxes(controls: Mapping[str, Control]) -> "dict[str, widgets.Widget]":
    """Return the ipywidgets of the controls, with each limit that depends on others kept up to date."""
    made: dict[str, widgets.Widget] = {}
    for name, each in controls.items():
        earlier = dict(made)
        made[name] = each.widget({before: box.value for before, box in earlier.items()})
        if isinstance(each, Slider) and callable(each.high):

            def fit(_change: Any = None, box: Any = made[name], each: Slider = each, earlier: Any = earlier) -> None:
                box.max = each.highest({before: other.value for before, other in earlier.items()})

            for other in earlier.values():
                other.observe(fit, names="value")
    return made


def with_keys(box: "widgets.Widget") -> "widgets.VBox":
    """Return the controls so that each slider has a name for screen readers, and no key of theirs is JupyterLab's."""
    import anywidget
    import ipywidgets as widgets

    return widgets.VBox([box, anywidget.AnyWidget(_esm=CELL_KEYS + _SLIDERS)])


def _look() -> dict[str, Any]:
    import ipywidgets as widgets

    return {"style": {"description_width": "11em"}, "layout": widgets.Layout(width="36em", max_width="100%")}


_SLIDERS = """
// ipywidgets gives a slider no name: here it gets the words that stand beside it.
function render({ el }) {
  let watch
  const begin = () => {
    const box = el.parentElement
    if (!box) return setTimeout(begin, 50)
    const name = () => {
      for (const slider of box.querySelectorAll("[role=slider]:not([aria-label])")) {
        const label = slider.closest(".jupyter-widgets")?.querySelector("label")
        if (label) slider.setAttribute("aria-label", label.textContent)
      }
    }
    watch = new MutationObserver(name)
    watch.observe(box, { childList: true, subtree: true })
    name()
    keepKeys(box)
  }
  begin()
  return () => watch?.disconnect()
}
export default { render }
"""
