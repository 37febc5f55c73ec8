"""A Sphinx extension: formulas become MathML when the site is built. A browser draws them without any program."""

from typing import Any

from latex2mathml.converter import convert


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer under the name `mathml`, as Sphinx asks extensions to."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator: Any, node: Any) -> None:
    _write(translator, node, "inline")


def _block(translator: Any, node: Any) -> None:
    _write(translator, node, "block")


def _write(translator: Any, node: Any, display: str) -> None:
    from docutils.nodes import SkipNode

    formula = convert(node.astext(), display=display)
    # A wide formula scrolls, and the keyboard reaches what scrolls.
    block = '<div class="tc-formula" tabindex="0" role="math">{}</div>'
    translator.body.append(block.format(formula) if display == "block" else formula)
    raise SkipNode
