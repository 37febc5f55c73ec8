"""The description of a sharded checkpoint is a pickle file, and reading one runs nothing."""

import io
import pickle
from pathlib import PurePath, PurePosixPath, PureWindowsPath

import pytest
from torch.distributed.checkpoint import metadata

from torchcourse.training.foreign.sharded import _DescriptionUnpickler


class AsGetattr:
    """Pickled as getattr(kind, name), as Python 3.11.2 pickles the members of an Enum."""

    def __init__(self, kind: type, name: str) -> None:
        self.call = getattr, (kind, name)

    def __reduce__(self):
        return self.call


def read(thing: object) -> object:
    return _DescriptionUnpickler(io.BytesIO(pickle.dumps(thing))).load()


def test_members_of_enums_are_read_however_python_pickled_them():
    formats = metadata._MEM_FORMAT_ENCODING
    member = next(iter(formats))
    assert read(member) is member
    assert read(AsGetattr(formats, member.name)) is member


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])  # Python 3.13 writes the second
@pytest.mark.parametrize(
    ("name", "kind"), [("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath), ("Path", PurePath)]
)
def test_paths_of_any_system_and_python_are_read(module, name, kind):
    pickled = f"c{module}\n{name}\n(S'step-2'\ntR.".encode()  # a call of the class with one text
    path = _DescriptionUnpickler(io.BytesIO(pickled)).load()
    assert isinstance(path, kind)
    assert path.name == "step-2"


@pytest.mark.parametrize("name", ["__subclasses__", "mro", "_member_map_", "nothing"])
def test_getattr_gives_nothing_else(name):
    with pytest.raises(pickle.UnpicklingError, match="getattr"):
        read(AsGetattr(metadata._MEM_FORMAT_ENCODING, name))
    with pytest.raises(pickle.UnpicklingError, match="getattr"):
        read(AsGetattr(metadata.TensorProperties, name))
