"""The patients of the clinic, ward by ward, in the order in which the notebooks call them."""

WARDS: dict[str, list[str]] = {
    # notebook 3
    "loop": ["learns_then_forgets", "big_batch_diverges"],
    "model and optimizer": ["loss_with_a_floor", "head_that_sleeps", "loss_that_stands_still"],
    "evaluation": ["moody_score", "hungry_validation"],
    "memory": ["swelling_run", "sawtooth"],
    # notebook 4
    "data": ["idle_since_tuesday", "good_only_in_crowds"],
    "numbers": ["nan_since_new_scanner"],
    "ranks": ["images_nobody_sees", "closed_connection"],
    "checkpoints": ["resumes_elsewhere"],
    # notebook 4 of lesson 06, which teaches what they need
    "splits": ["promised_more"],
    "workers": ["details_are_lost", "augmentation_adds_nothing"],
}
"""Ward → the slugs of its cases; each is a module here, and a script in `programs/`."""
