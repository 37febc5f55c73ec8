"""The little Markdown of the bank: four forms with the same words, and no tag that a browser obeys."""

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from torchcourse.quiz import markup

SAMPLE = "Call `a < b` **now**, *not* later.\n\nThen\n\n```python\nx = 1 < 2\n```\n\n**중요**합니다"


def shown(rendered: str) -> str:
    return "".join(html.unescape(re.sub(r"<[^>]+>", "", rendered)).split())


def test_the_four_forms() -> None:
    assert markup.to_html(SAMPLE) == (
        "<p>Call <code>a &lt; b</code> <strong>now</strong>, <em>not</em> later.</p><p>Then</p>"
        "<pre><code>x = 1 &lt; 2</code></pre><p><strong>중요</strong>합니다</p>"
    )
    assert markup.to_plain(SAMPLE) == "Call `a < b` now, not later.\n\nThen\n\n    x = 1 < 2\n\n중요합니다"
    assert markup.to_markdown(SAMPLE) == SAMPLE
    assert markup.to_inline("a\nb") == "a b"


@pytest.mark.parametrize(
    "text",
    ["<script>alert(1)</script>", "`</code><b>`", "**<i>**", "a & b &lt; c", "\"quoted\" 'text'", "<img onerror=x>"],
)
def test_tags_are_shown_and_not_obeyed(text: str) -> None:
    for form in (markup.to_html, markup.to_inline):
        tags = set(re.findall(r"<(\w+)", form(text)))
        assert tags <= {"p", "code", "strong", "em"}
    assert shown(markup.to_inline(text)) == shown_source(text)


def shown_source(text: str) -> str:
    return "".join(re.sub(r"[`*]", "", text).split())


@pytest.mark.slow
@given(st.text(alphabet=st.sampled_from("ab 가1.*_`<>&$#[]()\\-+|~!\n"), max_size=30))
def test_markdown_shows_what_html_shows(text: str) -> None:
    ours = shown(markup.to_html(text))
    rendered = MarkdownIt("commonmark").render(markup.to_markdown(text))
    assert shown(rendered) == ours


def test_one_line() -> None:
    assert markup.is_one_line("a\nb")
    assert not markup.is_one_line("a\n\nb")
    assert not markup.is_one_line("```\na\n```")
