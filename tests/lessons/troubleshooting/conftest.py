"""What the tests of lesson 05 share: a small heap to collect."""

import gc

import pytest


@pytest.fixture(autouse=True, scope="module")
def only_what_is_new_is_collected():
    """The checks of this lesson collect garbage for each try: leave out what earlier tests of the process imported.

    Late in a suite, one collection of everything takes a second.
    """
    gc.collect()
    gc.freeze()
