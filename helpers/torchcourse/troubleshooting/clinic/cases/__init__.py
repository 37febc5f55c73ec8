"""The patients of the clinic, ward by ward, in the order in which the notebooks call them."""

WARDS: dict[str, list[str]] = {
    # notebook 3
    "model and optimizer": [],
    "loop": ["learns_then_forgets"],
    "evaluation": [],
    "memory": [],
    # notebook 4
    "data": ["idle_since_tuesday", "promised_more", "good_only_in_crowds"],
    "numbers": ["nan_since_new_scanner"],
    "workers": ["details_are_lost", "augmentation_adds_nothing"],
    "ranks": ["images_nobody_sees", "closed_connection"],
    "checkpoints": ["resumes_elsewhere"],
}
"""Ward → the slugs of its cases; each is a folder here."""
