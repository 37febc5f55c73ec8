"""The patients of the clinic, ward by ward, in the order in which the notebooks call them."""

WARDS: dict[str, list[str]] = {
    # notebook 3
    "model and optimizer": [],
    "loop": ["learns_then_forgets"],
    "evaluation": [],
    "memory": [],
    # notebook 4
    "data": [],
    "workers": [],
    "ranks": [],
    "checkpoints": [],
}
"""Ward → the slugs of its cases; each is a folder here."""
