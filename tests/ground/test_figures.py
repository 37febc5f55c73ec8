"""Figures carry their words, and an explorer draws again when a control moves."""

import functools
import re

import pytest

from torchcourse import controls, figures


@pytest.fixture(autouse=True)
def nothing_drawn_yet(monkeypatch):
    monkeypatch.setattr(figures, "_made", {})


def draw(bars: int, kind: str = "up"):
    if bars == 3:
        raise ValueError("three bars do not fit")
    figure, axis = figures.new()
    axis.bar(range(bars), range(bars) if kind == "up" else range(bars, 0, -1))
    return figure


def test_a_picture_is_an_image_with_its_alternative():
    picture = figures.Picture(draw(2), 'a "quoted" <text>')
    assert 'alt="a &quot;quoted&quot; &lt;text&gt;"' in picture._repr_html_()
    assert "data:image/png;base64," in picture._repr_html_()
    assert repr(picture) == '[picture: a "quoted" <text>]'


@pytest.mark.slow
def test_an_explorer_redraws_and_renames():
    widget = figures.explorer(draw, alt=lambda bars, kind: f"{bars} bars {kind}", bars=(1, 5, 2), kind=["up", "down"])
    slider, choice, picture = widget.children
    first = picture.value
    assert "2 bars up" in first
    slider.value = 4
    assert "4 bars up" in picture.value
    assert picture.value != first
    choice.value = "down"
    assert "4 bars down" in picture.value


def test_the_picture_of_the_start_stays_where_no_widget_shows(monkeypatch):
    shown = []
    monkeypatch.setattr(figures.live, "show", lambda make, static, text: shown.append((make(), static, text)))
    made = figures.explorer(draw, alt=lambda bars: f"{bars} bars > 1", bars=(1, 5, 2))
    made._ipython_display_()
    [(live, static, text)] = shown
    assert live.children[0].children == made.children
    assert static.startswith("<img ")
    assert "run this cell" in static
    assert text.startswith("[picture: 2 bars > 1]\n")


@pytest.mark.slow
def test_a_picture_is_drawn_for_values_given_by_code():
    figures.explorer(draw, alt=lambda bars, kind: f"{bars} bars {kind}", bars=(1, 5, 2), kind=["up", "down"])
    assert repr(figures.at("draw", bars=4)) == "[picture: 4 bars up]"
    assert repr(figures.at("draw", kind="down", bars=4)) == "[picture: 4 bars down]"


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"bras": 4}, "This picture has no control 'bras'. It has: bars, kind, share, tick, last."),
        ({"bars": 6}, "'bars' is a whole number from 1 to 5, and you gave 6."),
        ({"bars": 2.5}, "'bars' is a whole number from 1 to 5, and you gave 2.5."),
        ({"bars": True}, "'bars' is a whole number from 1 to 5, and you gave True."),
        ({"bars": "2"}, "'bars' is a whole number from 1 to 5, and you gave '2'."),
        ({"share": float("nan")}, "'share' is a number from 0 to 1, and you gave nan."),
        ({"kind": "left"}, "'kind' is one of 'up', 'down', and you gave 'left'."),
        ({"tick": 1}, "'tick' is True or False, and you gave 1."),
        ({"bars": 4, "last": 9}, "'last' is a whole number from 0 to 8, and you gave 9."),
        ({"bars": 3}, "three bars do not fit"),
    ],
)
def test_values_by_code_have_the_limits_of_the_controls(values, refusal):
    made = figures.explorer(
        lambda bars, kind, **_rest: draw(bars, kind),
        alt="bars",
        bars=(1, 5, 2),
        kind=["up", "down"],
        share=(0.0, 1.0, 0.5),
        tick=False,
        last=figures.steps("last", 0, lambda bars, **_rest: 2 * bars, 1),
    )
    assert made.at(bars=4, share=1, tick=True, last=8)
    with pytest.raises(ValueError, match=re.escape(refusal)):
        made.at(**values)


def test_a_slider_ends_where_the_controls_before_it_say():
    last = figures.steps("last", 0, lambda bars: 2 * bars, 3)
    made = figures.explorer(lambda bars, last: f"<p>{bars}, {last}</p>", alt="a", bars=(1, 5, 2), last=last)
    bars, last, picture = made.children
    assert last.max == 4
    bars.value = 1
    assert (last.max, last.value) == (2, 2)
    assert "<p>1, 2</p>" in picture.value
    bars.value = 5
    assert last.max == 10


def test_each_explorer_has_a_name_and_a_cell_that_runs_again_keeps_it():
    def made(function, **controls):
        return figures.explorer(function, alt="a", **(controls or {"step": (0, 3, 1)})).name

    def unlike(step):
        return f"<p>{step}</p>"

    def cell():
        def unlike(step):
            return f"<p>not {step}</p>"

        return made(unlike), made(lambda step: f"<p>{step}</p>")

    assert [made(unlike), cell(), cell(), made(unlike)] == [
        "unlike",
        ("unlike_2", "step"),
        ("unlike_2", "step"),
        "unlike",
    ]
    up = functools.partial(draw, kind="up")
    assert made(up, bars=(1, 5, 2)) == made(draw, bars=(1, 5, 4)) != made(up, bars=(1, 5, 2), kind=["up"])
    with pytest.raises(ValueError, match="run the cell of this picture first"):
        figures.at("unlikely")


def test_values_that_cannot_be_drawn_are_answered_in_words():
    made = figures.explorer(draw, alt="bars", bars=(1, 5, 2))
    made.children[0].value = 3
    assert "three bars do not fit" in made.children[-1].value


@pytest.mark.parametrize(
    ("spec", "kind"), [((0, 4, 1), "IntSlider"), ((0.0, 1.0, 0.5), "FloatSlider"), (True, "Checkbox")]
)
def test_a_control_is_chosen_by_its_values(spec, kind):
    assert type(controls.control("x", spec).widget({})).__name__ == kind


@pytest.mark.slow
def test_a_long_title_is_made_to_fit():
    figure, axis = figures.new(width=4)
    axis.set_title("a finding that is a good deal longer than a figure of four inches has room for")
    figures.to_html(figure, "text")
    box = axis.title.get_window_extent()
    assert 0 <= box.x0 < box.x1 <= figure.bbox.width
    short, axis = figures.new()
    axis.set_title("short")
    figures.to_html(short, "text")
    assert (axis.title.get_fontsize(), axis.title.get_fontweight()) == (11, "bold")
