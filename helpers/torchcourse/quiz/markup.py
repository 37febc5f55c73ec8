"""The little Markdown that a question may use, and its forms: HTML for a card, Markdown for a notebook, plain text.

    paragraphs (a blank line between them) · `code` · **strong** · *emphasis* · blocks of code between ``` lines

Everything else is text: a `<tag>` is shown, never obeyed. All four forms show the same words.
"""

import html
import re
from collections.abc import Callable

_FENCE = re.compile(r"^```[^\n]*\n(.*?)\n?^```[ ]*$", re.MULTILINE | re.DOTALL)
# A Korean particle may follow a closing star, an English letter may not.
_INLINE = re.compile(
    r"(?<!`)`(?P<code>[^`\n]+)`(?!`)"
    r"|\*\*(?=\S)(?P<strong>[^*]+?)(?<=\S)\*\*"
    r"|(?<![A-Za-z0-9*])\*(?=\S)(?P<em>[^*]+?)(?<=\S)\*(?![A-Za-z0-9*])"
)


def to_html(text: str) -> str:
    """Return block HTML: paragraphs and blocks of code."""
    parts = []
    for kind, body in _blocks(text):
        if kind == "code":
            parts.append(f"<pre><code>{html.escape(body)}</code></pre>")
        else:
            parts.append(f"<p>{to_inline(body)}</p>")
    return "".join(parts)


def to_inline(text: str) -> str:
    """Return HTML for one line of text, without a paragraph around it."""
    return _inline(" ".join(text.split()), html.escape, lambda code: f"<code>{html.escape(code)}</code>")


def to_markdown(text: str) -> str:
    """Return Markdown for a notebook cell, in which only what this module knows has a meaning."""
    parts = []
    for kind, body in _blocks(text):
        if kind == "code":
            parts.append(f"```python\n{body}\n```")
        else:
            parts.append(_inline(" ".join(body.split()), _escape_markdown, lambda code: f"`{code}`", _stars))
    return "\n\n".join(parts)


def to_plain(text: str) -> str:
    """Return the words alone, with code between backticks as it was written."""
    parts = []
    for kind, body in _blocks(text):
        if kind == "code":
            parts.append("\n".join(f"    {line}" for line in body.splitlines()))
        else:
            parts.append(" ".join(_INLINE.sub(lambda m: m["strong"] or m["em"] or m[0], body).split()))
    return "\n\n".join(parts)


def is_one_line(text: str) -> bool:
    """Whether the text has neither a second paragraph nor a block of code."""
    return len(_blocks(text)) == 1 and "```" not in text


def _blocks(text: str) -> list[tuple[str, str]]:
    blocks = []
    for position, part in enumerate(_FENCE.split(text.strip())):
        if position % 2:
            blocks.append(("code", part))
        else:
            blocks += [("paragraph", paragraph) for paragraph in re.split(r"\n\s*\n", part) if paragraph.strip()]
    return blocks


def _inline(
    text: str,
    plain: Callable[[str], str],
    code: Callable[[str], str],
    emphasis: Callable[[str, str, str, str], str] = lambda tag, inner, _before, _after: f"<{tag}>{inner}</{tag}>",
) -> str:
    result, end = [], 0
    for match in _INLINE.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        result.append(plain(text[end : match.start()]))
        end = match.end()
        if match["code"]:
            result.append(code(match["code"]))
        else:
            tag = "strong" if match["strong"] else "em"
            result.append(emphasis(tag, _inline(match[tag], plain, code, emphasis), before[-1:], after[:1]))
    return "".join([*result, plain(text[end:])])


def _stars(tag: str, inner: str, before: str, after: str) -> str:
    """Return emphasis in Markdown: with stars, or with tags where stars between a sign and a letter would be shown."""
    opens = inner[0].isalnum() or not before.isalnum()
    closes = inner[-1].isalnum() or not after.isalnum()
    stars = "**" if tag == "strong" else "*"
    return f"{stars}{inner}{stars}" if opens and closes else f"<{tag}>{inner}</{tag}>"


def _escape_markdown(text: str) -> str:
    escaped = re.sub(r"[\\`*_\[\]$~|#]|^[-+]", r"\\\g<0>", html.escape(text, quote=False))
    return re.sub(r"^(\d+)(?=[.)])", r"\1\\", escaped)
