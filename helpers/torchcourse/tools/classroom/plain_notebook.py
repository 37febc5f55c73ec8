"""The JSON of a notebook as nbformat can take it, whatever program wrote it, and whoever made it.

Editors note things about a notebook and its cells that the format does not allow, and leave out what it asks for. Of
all that, grading reads the cells' texts and ids, and their roles.
"""

import re
from typing import Any

MOST_PARTS = 500_000
"""Lists and groups of entries that a notebook may have: one takes up to 500 bytes of memory, for 3 bytes of text."""

_KEPT = {"kernelspec": ("name", "display_name"), "language_info": ("name",), "torchcourse": ()}
"""Of a notebook's metadata, and which texts there have to be in each."""


def has_too_many_parts(text: str) -> bool:
    """Whether what a text describes would fill the memory of the machine. Brackets within strings do not count."""
    if text.count("{") + text.count("[") <= MOST_PARTS:
        return False
    plain = text.replace("\\\\", "").replace('\\"', "")
    count = 0
    for part in re.finditer(r'"[^"]*"?|[\[{]', plain):
        count += part[0][0] != '"'
        if count > MOST_PARTS:
            return True
    return False


def cells(content: dict[str, Any]) -> list[Any]:
    """Return the cells of a notebook; old formats have them in sheets."""
    sheets = content.get("worksheets")
    places = [content, *(sheets if isinstance(sheets, list) else [])]
    lists = [one["cells"] for one in places if isinstance(one, dict) and isinstance(one.get("cells"), list)]
    return [cell for cells in lists for cell in cells]


def plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook with no more than grading reads. What is no cell stays, for nbformat to name."""
    about = content.get("metadata")
    kept = {
        name: about[name]
        for name, needed in _KEPT.items()
        if isinstance(about, dict)
        and isinstance(about.get(name), dict)
        and all(isinstance(about[name].get(one), str) for one in needed)
    }
    if "language_info" in kept:
        texts = ("name", "pygments_lexer")
        kept["language_info"] = {
            one: kept["language_info"][one] for one in texts if _is_text(kept["language_info"], one)
        }
    is_new = isinstance(content.get("cells"), list)
    made = {
        "nbformat": _number(content.get("nbformat"), 4 if is_new else 3),
        "nbformat_minor": _number(content.get("nbformat_minor"), 0),
        "metadata": kept,
    }
    if is_new:
        return whole(made | {"cells": [_cell(cell) for cell in content["cells"]]})
    sheets = [
        {"metadata": {}, "cells": [_old_cell(cell) for cell in cells({"worksheets": [sheet]})]}
        for sheet in content["worksheets"]
    ]
    return whole(made | {"worksheets": sheets})


def whole(value: Any) -> Any:
    """Replace half characters (surrogates), which no file can hold. An editor that cuts a text leaves them."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {whole(name): whole(item) for name, item in value.items()}
    return [whole(item) for item in value] if isinstance(value, list) else value


def _cell(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    made = {name: cell[name] for name in ("cell_type", "id", "source") if name in cell} | {"metadata": _role(cell)}
    return made | ({"outputs": [], "execution_count": None} if cell.get("cell_type") == "code" else {})


def _old_cell(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    kept = ("cell_type", "language", "input", "source", "level")
    made = {name: cell[name] for name in kept if name in cell} | {"metadata": _role(cell)}
    return made | ({"outputs": [], "collapsed": False} if cell.get("cell_type") == "code" else {})


def _role(cell: dict[str, Any]) -> dict[str, Any]:
    about = cell.get("metadata")
    return {"nbgrader": about["nbgrader"]} if isinstance(about, dict) and "nbgrader" in about else {}


def _is_text(group: dict[str, Any], name: str) -> bool:
    return isinstance(group.get(name), str)


def _number(value: Any, otherwise: int) -> int:
    """Return a number that may have been written as a text or with a point."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return otherwise
