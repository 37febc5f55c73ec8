"""Figures carry their words, and an explorer draws again when a control moves."""

import pytest

from torchcourse import figures


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
    widget = figures.explorer(draw, alt=lambda bars: f"{bars} bars > 1", bars=(1, 5, 2))
    widget._ipython_display_()
    [(live, static, text)] = shown
    assert live.children[0] is widget
    assert static.startswith("<img ")
    assert "run this cell" in static
    assert text == "[picture: 2 bars > 1]"


def test_values_that_cannot_be_drawn_are_answered_in_words():
    widget = figures.explorer(draw, alt="bars", bars=(1, 5, 2))
    widget.children[0].value = 3
    assert "three bars do not fit" in widget.children[-1].value


@pytest.mark.parametrize(
    ("spec", "kind"), [((0, 4, 1), "IntSlider"), ((0.0, 1.0, 0.5), "FloatSlider"), (True, "Checkbox")]
)
def test_a_control_is_chosen_by_its_values(spec, kind):
    assert type(figures._control("x", spec)).__name__ == kind


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
