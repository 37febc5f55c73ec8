"""What all tests share: nothing is written into the learner's own folder, and GPU tests wait for a GPU."""

import pytest


@pytest.fixture(autouse=True, scope="session")
def journal_elsewhere(tmp_path_factory):
    """Lessons and checks write a journal: here into a folder of pytest's, also from processes that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHCOURSE_WORK", str(tmp_path_factory.mktemp("work")))
        yield


def pytest_collection_modifyitems(items):
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU that torch can use"))
