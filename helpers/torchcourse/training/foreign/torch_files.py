"""torch.load with all that makes it safe, for files and for single values, and one sentence for what it refuses."""

import io
import pickletools
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from torchcourse.training.checkpoint import CheckpointError, some


def torch_load(file: BinaryIO, devices: set[str]) -> Any:
    """Return what torch.save wrote, with its tensors on the CPU; add to `devices` where they were when saved.

    Raises what torch.load raises; `why_refused` explains that.
    """

    def to_cpu(storage: Any, location: str) -> Any:
        devices.add(str(location))
        return storage

    with torch.serialization.safe_globals(_NUMPY):
        try:
            return torch.load(file, map_location=to_cpu, weights_only=True)
        except RuntimeError as error:
            if "Callable map_location" not in str(error):
                raise
            file.seek(0)  # a file with DTensors, whose device cannot be asked for
            return torch.load(file, map_location="cpu", weights_only=True)


def load_bytes(data: io.BytesIO) -> Any:
    """Read a value that torch.distributed.checkpoint stored beside the tensors.

    Raises:
        CheckpointError: if reading it could run code.
    """
    try:
        return torch_load(data, set())
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(why_refused(data, Path("A value in the folder"), error)) from None


def why_refused(file: BinaryIO, path: Path, error: Exception) -> str:
    """Explain in one sentence why torch.load refused a file."""
    try:
        file.seek(0)
        classes = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # files of the old kind, and damaged ones
        classes = []
    classes = [name for name in classes if not name.startswith("numpy.")]
    if _is_plain_pickle(file):
        return (
            f"{path} was written by pickle and not by torch.save. Reading such a file could run code, so weights_only "
            "refuses it. Where it was made, and if you trust it, read it with pickle, and save a dict of tensors by "
            "name with torch.save."
        )
    if any(key in _words(file) for key in ("pytorch-lightning_version", "hyper_parameters")) and classes:
        return (
            f"{path} is a Lightning checkpoint with {some(classes)} among its hyperparameters, and reading these could "
            "run code. Where it was made, and if you trust it, save its state_dict alone; next time use "
            "save_hyperparameters(ignore=[…]) for what is no number or text."
        )
    if any(name.startswith("torch.nn.modules.") for name in classes) or "nn.Module" in str(error):
        return (
            f"{path} holds a whole pickled model and not its weights, and reading such a file runs code from it. Where "
            "it was made, and if you trust it, save model.state_dict() instead."
        )
    if classes:
        return (
            f"{path} holds more than tensors: {some(classes)}. Reading that could run code, so weights_only "
            "refuses it. Where the file was made, and if you trust it, save the weights alone: model.state_dict()."
        )
    if "Unsupported" in str(error) or "GLOBAL" in str(error) or "Weights only" in str(error):
        return (
            f"{path} is a pickle file that asks for more than tensors, and reading it could run code, so weights_only "
            "refuses it. Where it was made, and if you trust it, save the weights alone: model.state_dict()."
        )
    reason = str(error).splitlines()[0] if str(error) else "it ends early"
    return f"{path} is damaged or cut off ({reason}). Use a different copy."


def _is_plain_pickle(file: BinaryIO) -> bool:
    """Whether a file is one whole pickle, and not the first of those that torch.save used to write."""
    try:
        file.seek(0)
        if file.read(1) != b"\x80":
            return False
        file.seek(0)
        values = [value for _, value, _ in pickletools.genops(file)]
        return torch.serialization.MAGIC_NUMBER not in values
    except Exception:  # damaged
        return False


def _words(file: BinaryIO) -> set[str]:
    """Return the texts in a file of torch.save, without running anything."""
    try:
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
            return {value for _, value, _ in pickletools.genops(archive.read(name)) if isinstance(value, str)}
    except Exception:  # of the old kind, or damaged
        return set()


def _of_numpy() -> list[Any]:
    """What it takes to read NumPy's numbers and arrays (a best accuracy, a state of random numbers), of NumPy 1 and 2.

    These make data and nothing else: https://docs.pytorch.org/docs/stable/notes/serialization.html
    """
    scalar = type(np.float64(0)).__reduce__(np.float64(0))[0]
    kinds = [getattr(np.dtypes, name) for name in dir(np.dtypes) if name.endswith("DType")]
    array = np.zeros(0).__reduce__()[0]
    functions = [(scalar, "scalar"), (array, "_reconstruct")]
    named = [(made, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for made, name in functions]
    return [*named, np.ndarray, np.dtype, *kinds]


_NUMPY = _of_numpy()
