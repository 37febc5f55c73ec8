"""What a sandbox sends as the outputs of a cell, before anything else is done with it: it can be whatever code wrote.

The limits within the sandbox (`cells`) are in the same process as what was handed in; those here are not.
"""

from typing import Any

LONGEST = 16 * 2**20
"""Characters that the outputs of a cell may have together: more than `cells` lets through."""

MOST = 20_000
"""Outputs of a cell, twice what `cells` lets through. Each has to be kept and checked, also one without a text."""

_TEXTS = {"stream": ("name", "text"), "error": ("ename", "evalue")}


def received(outputs: Any) -> list[dict[str, Any]]:
    """Return outputs in the form in which a notebook keeps them, text only: nothing else is shown later.

    Raises:
        ValueError: if they are none, or too long, so that something else than `cells` sent them.
    """
    if not isinstance(outputs, list) or len(outputs) > MOST:
        raise ValueError("There are no outputs, or too many.")
    kept = [_one(output) for output in outputs]
    if sum(_length(value) for output in kept for value in output.values()) > LONGEST:
        raise ValueError("The outputs are too long.")
    return kept


def _one(output: Any) -> dict[str, Any]:
    kind = output.get("output_type") if isinstance(output, dict) else None
    if kind in _TEXTS:
        kept = {name: output.get(name) for name in _TEXTS[kind]}
        texts = [*kept.values()]
        if kind == "error":
            kept["traceback"] = output.get("traceback")
            texts += kept["traceback"] if isinstance(kept["traceback"], list) else [None]
    elif kind in ("execute_result", "display_data") and isinstance(output.get("data"), dict):
        kept = {"data": {name: text for name, text in output["data"].items() if isinstance(text, str)}, "metadata": {}}
        texts = []
        if kind == "execute_result":
            kept["execution_count"] = None
    else:
        raise ValueError("There is an output of no kind.")
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("There is an output without a text.")
    return {"output_type": kind, **kept}


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(len(name) + len(text) for name, text in value.items())
    return sum(map(len, value)) if isinstance(value, list) else 0
