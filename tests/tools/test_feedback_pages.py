"""Feedback pages of texts that are broken, or made to keep the grader busy: a page is made, and the text is in it."""

import time

import pytest
from nbformat import v4
from traitlets.config import Config

from torchcourse.tools.classroom import feedback_pages, own_time
from torchcourse.tools.classroom.feedback_pages import FeedbackPages


@pytest.fixture
def made():
    """Returns the page of cells, without the steps that ask the gradebook."""
    pages = FeedbackPages(Config())
    pages._exporter._preprocessors.clear()
    told = {"score": 0.0, "max_score": 1.0, "late_penalty": 0.0}
    return lambda *cells: pages.page(v4.new_notebook(cells=list(cells)), {"nbgrader": told})


def test_a_picture_that_was_lost_in_a_copy_costs_no_page(made):
    page = made(v4.new_markdown_cell("See ![mine](attachment:image.png)"), v4.new_markdown_cell("**after**"))
    assert "See ![mine](attachment:image.png)" in page
    assert "<strong>after</strong>" in page


@pytest.mark.slow
@pytest.mark.parametrize("text", ["[", "[](", "[^1]", "<![CDATA["])
def test_a_text_that_is_made_to_keep_the_grader_busy_does_not(made, text):
    with own_time.limited(60):
        page = made(v4.new_markdown_cell(text * 100_000))
    assert len(page) > 100_000


@pytest.mark.slow
def test_texts_for_which_no_time_is_left_are_shown_as_they_were_typed(made, monkeypatch):
    cells = v4.new_code_cell("\n " * 100_000), v4.new_markdown_cell("**a** <b>"), v4.new_code_cell("x = 1")
    with monkeypatch.context() as patch:
        patch.setattr(feedback_pages, "MOST", 0.2)
        page = made(*cells)
    assert "**a** &lt;b&gt;" in page
    assert "<pre>x = 1</pre>" in page
    assert '<span class="n">x</span>' in made(cells[-1])  # the next page has a time of its own


@pytest.mark.slow
def test_a_limit_inside_a_limit_leaves_the_outer_one_what_is_left():
    reached = []

    def work(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        reached.append(seconds)

    def both():
        with pytest.raises(own_time.TooLong), own_time.limited(0.1):
            work(5)
        work(0.05)
        work(6)

    with pytest.raises(own_time.TooLong), own_time.limited(0.4):
        both()
    assert reached == [0.05]
