"""The patients of the clinic, ward by ward, in the order in which the notebooks call them."""

WARDS: dict[str, list[str]] = {
    "loop": ["missing_zero_grad"],
}
"""Ward → the slugs of its cases; each is a folder here."""
