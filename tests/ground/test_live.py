"""What a cell shows of something alive: the widget, and a static form that stands in for it."""

import html
import re
import sys

import ipywidgets as widgets
import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from torchcourse import figures, live
from torchcourse.quiz import card, predict


@pytest.fixture
def outputs(monkeypatch):
    """The outputs of a notebook's cell, in which the test runs."""
    publisher = CapturingDisplayPublisher()
    shell = InteractiveShell.instance()
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    InteractiveShell.clear_instance()


def test_two_outputs_of_which_one_shows(outputs):
    live.show(widgets.Button, "<p>A picture.</p>", "A picture.")
    widget, static = (output["data"] for output in outputs)
    assert widget[live.VIEW]["model_id"]
    assert (widget["text/html"], widget["text/plain"]) == ("", ""), "nothing, where widgets do not show"
    assert static["text/html"].endswith("<p>A picture.</p></div>")
    assert static["text/plain"] == "A picture."
    mark = outputs[1]["transient"]["display_id"]
    assert f".tc-live-{mark}" in static["text/html"]
    assert f'data-tc-static="{mark}"' in static["text/html"]


def test_the_static_form_is_replaced_in_its_place(outputs):
    replace = live.show(widgets.Button, "before", "before")
    replace("after", "after")
    assert outputs[2]["update"] is True
    assert outputs[2]["transient"] == outputs[1]["transient"]
    assert "after</div>" in outputs[2]["data"]["text/html"]
    assert "tc-live-" in outputs[2]["data"]["text/html"], "still hidden while the widget shows"


def test_without_ipywidgets_the_static_form_stands_alone(outputs, monkeypatch):
    def make():
        import ipywidgets

        return ipywidgets.Button()

    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    live.show(make, "<p>A picture.</p>", "A picture.")
    [static] = outputs
    assert static["data"]["text/html"].endswith("<p>A picture.</p></div>")
    assert "<style>" not in static["data"]["text/html"]


def test_a_page_that_connects_while_widgets_are_made_gets_them_whole(monkeypatch):
    opened = []
    open_now = widgets.Widget.open

    def noted(self):
        opened.append(self.get_state())
        open_now(self)

    monkeypatch.setattr(widgets.Widget, "open", noted)
    predict("live.bars", "How many?", ["one", "two"]).choose("two").widget()
    card("04_monitoring_and_checkpoints", "manage-training").widget()
    forms = [state for state in opened if "parts" in state]
    assert [list(state["parts"])[:2] for state in forms] == [["head", "answer"]] * 2
    assert forms[0]["values"] == {"answer": ["B"]}
    last = figures.steps("last", 0, lambda bars: 2 * bars, 3)
    figures.explorer(lambda **_all: "<p>", alt="a", bars=(1, 5, 2), last=last).widget()
    assert [state["max"] for state in opened if "max" in state] == [5, 4]


@pytest.mark.parametrize(
    "make",
    [
        lambda: card("04_monitoring_and_checkpoints", "manage-training"),
        lambda: predict("live.bars", "How many?", ["one", "two"]),
        lambda: figures.explorer(
            lambda bars, kind: f"<p>{bars} {kind}</p>", alt="bars", bars=(1, 9, 3), kind=["a<b", 'a"b']
        ),
    ],
    ids=["card", "prediction", "explorer"],
)
@pytest.mark.parametrize("missing", [("ipywidgets", "anywidget"), ("anywidget",)], ids=["neither", "no anywidget"])
def test_on_a_host_without_widgets_the_static_form_names_a_line_that_runs(outputs, monkeypatch, missing, make):
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    for module in ("torchcourse.quiz.widget", "torchcourse.quiz.form"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    make()._ipython_display_()
    [static] = outputs
    [line] = re.findall(r"<code>(from .*?)</code>", static["data"]["text/html"])
    line = html.unescape(line)
    assert line in static["data"]["text/plain"]
    *statements, expression = line.split("; ")
    namespace: dict[str, object] = {}
    exec("; ".join(statements), namespace)
    assert eval(expression, namespace) is not None
