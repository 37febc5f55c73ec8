"""The general symptoms: one name for one kind of mistake, in every check and every case of the clinic.

A mistake that only one exercise can have gets a name of its own there. What several exercises see has its name here,
so that the journal can count it across lessons.
"""

from typing import Final

GENERAL: Final[dict[str, str]] = {
    "hang": "Ranks waited for each other until the time limit.",
    "left_alone": "A rank waited for one that had returned or failed.",
    "ranks_disagree": "The ranks came to different results where they must agree.",
    "endless": "The program was still running at the time limit.",
    "nothing_returned": "The function returned None.",
    "wrong_type": "The function returned something of a different kind: no tensor, list, dictionary or pair.",
    "no_number": "The function returned something that is not one finite number.",
    "count": "There are too few or too many of the things asked for.",
    "order": "The right things came in a different order.",
    "shape": "A tensor has a different shape.",
    "dtype": "A tensor has a different type of numbers.",
    "wrong_value": "The values differ, and no known mistake explains them.",
    "nothing_changed": "What was to be changed in place is as it was.",
    "inputs_changed": "The function changed what it was given to read.",
    "weights_changed": "The function changed weights that it was to leave alone.",
    "no_gradient": "A parameter has no gradient where it needs one.",
    "wrong_gradient": "A gradient differs, and no known mistake explains it.",
    "mode_left_changed": "Training or evaluation mode, or a setting of PyTorch's, is not what it was before.",
    "later_steps": "The first step is right, and a later one is not.",
    "not_repeatable": "The same seed gives different results.",
    "seed_ignored": "Different seeds give the same result.",
    "still_there": "The fault that was to be repaired is still there.",
    "training_changed": "The repair changed what it was to leave alone: steps, data, learning rate or result.",
}
"""Symptom → what it means, for authors. The learner reads the hint of the check."""

SYNONYMS: Final[dict[str, str]] = {
    "hangs": "hang",
    "deadlock": "hang",
    "connection_closed": "left_alone",
    "returned_nothing": "nothing_returned",
    "no_value": "nothing_returned",
    "no_tensor": "wrong_type",
    "no_list": "wrong_type",
    "no_dict": "wrong_type",
    "no_pair": "wrong_type",
    "not_a_number": "no_number",
    "numbers": "no_number",
    "other_order": "order",
    "value": "wrong_value",
    "values": "wrong_value",
    "other": "wrong_value",
    "other_number": "wrong_value",
    "changed_model": "weights_changed",
}
"""Names that were used for the same thing, and the one to use. A test finds them in checks and cases."""
