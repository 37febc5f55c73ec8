"""A bank with a question of each kind, and ways to put it (or a broken one) where the course looks for banks."""

import copy
from pathlib import Path
from typing import Any

import yaml

LESSON = "07_example"


def both(text: str) -> dict[str, str]:
    return {"en": text, "ko": f"한국어 {text}"}


def choice(text: str, slug: str | None = None) -> dict[str, Any]:
    marks = {"misconception": slug} if slug else {"right": True}
    return {"text": both(text), **marks, "why": both(f"Why {text}.")}


def bank() -> dict[str, Any]:
    """Return a bank without faults, as nested dictionaries to be changed."""
    source = {"objective": "know-it"}
    slip = {"misconception": "slip", "why": both("Look again.")}
    variant = {
        "id": "pick-one-again",
        "kind": "one",
        "fixed_order": True,
        "text": both("Pick the even one"),
        "choices": [choice("two"), choice("three", "odd")],
    }
    return copy.deepcopy(
        {
            "title": both("Example"),
            "objectives": {"know-it": both("Know it.")},
            "misconceptions": {"odd": both("Odd ones count."), "slip": both("A slip.")},
            "questions": [
                {
                    "id": "pick-one",
                    "kind": "one",
                    "fixed_order": True,
                    "source": source,
                    "text": both("Pick `one` <b>"),
                    "choices": [choice("one", "odd"), choice("two")],
                    "variants": [variant],
                },
                {
                    "id": "pick-several",
                    "kind": "several",
                    "fixed_order": True,
                    "source": source,
                    "points": 2,
                    "text": both("Pick several"),
                    "choices": [choice("two"), choice("three", "odd"), choice("four"), choice("five", "slip")],
                },
                {
                    "id": "type-number",
                    "kind": "number",
                    "source": source,
                    "text": both("How many?"),
                    "unit": both("bytes"),
                    "answer": 4,
                    "tolerance": 0.1,
                    "why": both("Four."),
                    "mistakes": [{"answer": 8, **slip}],
                },
                {
                    "id": "type-text",
                    "kind": "text",
                    "source": source,
                    "text": both("Which call?"),
                    "accepted": ["all_reduce", "allreduce"],
                    "why": both("That one."),
                    "mistakes": [{"answers": ["reduce"], **slip}],
                },
                {
                    "id": "put-in-order",
                    "kind": "order",
                    "source": source,
                    "text": both("In which order?"),
                    "items": [both("last"), both("first"), both("second")],
                    "answer": "BCA",
                    "why": both("So."),
                    "mistakes": [{"swapped": "AB", **slip}],
                },
                {
                    "id": "write",
                    "kind": "open",
                    "source": source,
                    "points": 2,
                    "text": both("Why?"),
                    "model_answer": both("Because of this and that."),
                    "rubric": [{"points": 1, "text": both("This.")}, {"points": 1, "text": both("That.")}],
                    "self_check": [{"text": both("Says this."), "misconception": "odd"}, {"text": both("Says that.")}],
                    "mistakes": [{"reasoning": both("Because of size."), **slip}],
                },
            ],
        }
    )


def write(folder: Path, data: Any, lesson: str = LESSON) -> Path:
    path = folder / f"{lesson}.yaml"
    text = data if isinstance(data, str) else yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    path.write_text(text, encoding="utf-8")
    return path
