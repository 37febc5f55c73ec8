"""From a path to the dict that was saved: a file, or a folder of one of the kinds that programs write."""

import json
import os
import re
from pathlib import Path
from typing import Any

from torchcourse.training.checkpoint import CheckpointError, some
from torchcourse.training.foreign import sharded
from torchcourse.training.foreign.files import Found, looks_like_a_checkpoint, read_file


def read(source: str | os.PathLike) -> Found:
    """Read a checkpoint of any kind without running anything in it.

    Args:
        source: a file of torch.save, Lightning or safetensors; the index of a model that is spread over several files;
            or a folder: of torch.distributed.checkpoint, of Hugging Face's Trainer or accelerate, with an index, or
            with one file.

    Raises:
        CheckpointError: if it cannot be read; one sentence says what it is instead, and what to do.
    """
    path = Path(source)
    if "\0" in str(path):
        raise CheckpointError(f"{str(path)!r} is no path: it has a zero byte in it.")
    if re.match(r"[A-Za-z]\w+://", os.fspath(source)) and not path.exists():
        raise CheckpointError(f"{source} is an address and not a path. Download the file, and give its path.")
    if path.parts[:1] == ("~",) and not path.exists():
        path = path.expanduser()
    try:
        if path.is_dir():
            return _read_folder(path)
        if _is_index(path):
            return _read_indexed(path)
        return read_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"There is no file {path}. Is the path right, as seen from {Path.cwd()}?") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror or error}).") from error


def _read_folder(folder: Path) -> Found:
    _refuse_shares_that_cannot_be_joined(folder)
    if (folder / "data.pkl").is_file() and (folder / "data").is_dir():
        raise CheckpointError(
            f"{folder} is a file of torch.save that was unpacked, as some browsers do with what they download. Get the "
            "file itself, or pack the folder as a zip file again, without compression."
        )
    if (folder / ".metadata").exists():
        return _read_shares(folder)
    beside = {path: _role(path) for path in sorted(folder.iterdir()) if looks_like_a_checkpoint(path)}
    found = _read_weights(folder, beside)
    return _with_what_stands_beside(folder, found, beside) if any(beside.values()) else found


def _read_weights(folder: Path, beside: dict[Path, str]) -> Found:
    """Read the weights in a folder; `beside` has the role of each file in it, "" for weights."""
    weights = [path for path in beside if not beside[path]]
    if [path.name for path in weights] == ["model.safetensors", "pytorch_model.bin"]:  # the same, twice
        weights = weights[:1]
    if indexes := sorted(path for path in folder.glob("*.json") if _is_index(path)):
        return _read_one_index(folder, indexes)
    if len(weights) == 1:
        return read_file(weights[0])
    if numbered := [found for path in weights if (found := re.fullmatch(_NUMBERED, path.name))]:
        return _read_numbered(folder, numbered, weights)
    if weights and any(beside.values()) and all(re.fullmatch(r"model(_\d+)?", path.stem) for path in weights):
        parts = {path.stem: read_file(path) for path in weights}  # accelerate's, of several models
        return Found({stem: part.content for stem, part in parts.items()}, f"{len(parts)} models")
    raise _nothing_to_read(folder, weights, list(beside))


_NUMBERED = r"(.+)-(\d+)-of-(\d+)\.\w+"


def _read_numbered(folder: Path, numbered: list[re.Match[str]], weights: list[Path]) -> Found:
    """Put together files that say by their names which parts of one model they are, as an index is missing."""
    count = int(numbered[0][3])
    same = {(match[1], match[3]) for match in numbered}
    if (
        len(numbered) != len(weights)
        or len(same) > 1
        or {int(match[2]) for match in numbered} != {*range(1, count + 1)}
    ):
        raise CheckpointError(
            f"{folder} has {some([path.name for path in weights])}, which are not all parts of one model, each once. "
            "Get those that are missing, and the index that says what is where."
        )
    parts = [read_file(path) for path in weights]
    whole = Found({}, f"{count} files without their index")
    for part in parts:
        if twice := whole.content.keys() & part.content.keys():
            raise CheckpointError(f"{folder} has {some(sorted(map(str, twice)))} in two of its files. Get the index.")
        whole.content |= part.content
        whole.devices |= part.devices
    return whole


def _refuse_shares_that_cannot_be_joined(folder: Path) -> None:
    shares = list(folder.glob("*.distcp"))
    if shares and not (folder / ".metadata").exists():
        raise CheckpointError(
            f"{folder} has the shares of {len(shares)} rank(s), but no .metadata, which is written last: the saving "
            "was not finished. Use the checkpoint before it."
        )
    if (folder / "zero_to_fp32.py").exists() or any(folder.glob("*_optim_states.pt")):
        raise CheckpointError(
            f"{folder} is DeepSpeed's, with shares that only DeepSpeed puts together. If you trust it, run its "
            "zero_to_fp32.py there, and load the file that this writes."
        )
    for pattern, whose in _SLICES.items():
        slices = sorted(str(path.relative_to(folder)) for path in folder.glob(pattern))
        if len(slices) > 1:
            raise CheckpointError(
                f"{folder} is {whose}: {some(slices)} hold parts of one model that was cut for several GPUs, and how "
                "it was cut is in the model's code alone. Convert it to Hugging Face's format with the script that "
                "goes with that code, and load the result."
            )


_SLICES = {
    "consolidated.[0-9][0-9].pth": "a Llama as Meta gives it",
    "mp_rank_[0-9][0-9]*/*.pt": "Megatron's",
    "mp_rank_[0-9][0-9]_model_states.pt": "DeepSpeed's",
}


def _role(path: Path) -> str:
    """Return what a file of Hugging Face's Trainer or of accelerate is for, or "" if it is not known."""
    for role, pattern in _ROLES.items():
        if re.fullmatch(pattern, path.name):
            return role
    return ""


_ROLES = {
    "optimizer": r"optimizer(_\d+)?\.(pt|bin)",
    "scheduler": r"scheduler(_\d+)?\.(pt|bin)",
    "scaler": r"scaler\.(pt|bin)",
    "not read": r"training_args\.bin|sampler(_\d+)?\.bin|dl_state_dict.*\.bin|rng_state.*\.pth|random_states_\d+\.pkl"
    r"|custom_checkpoint_\d+\.pkl",
}
"""Files beside the weights: https://huggingface.co/docs/accelerate/usage_guides/checkpoint"""


def _with_what_stands_beside(folder: Path, found: Found, beside: dict[Path, str]) -> Found:
    """Add the states of the optimizer, the scheduler and the scaler to the weights."""
    several = found.kind.endswith("models")
    content: dict[str, Any] = dict(found.content) if several else {"model": found.content}
    whole = Found(content, f"folder of Hugging Face's Trainer or accelerate, {found.kind}", found.devices, found.notes)
    for role in ("optimizer", "scheduler", "scaler"):
        parts = [read_file(path) for path in beside if beside[path] == role]
        if parts:
            content[role] = parts[0].content if len(parts) == 1 else [part.content for part in parts]
            whole.devices |= set().union(*(part.devices for part in parts))
    if (folder / "trainer_state.json").exists():
        try:
            content["trainer_state"] = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
        except ValueError:
            whole.notes.append("did not read trainer_state.json, which is damaged")
    if left := [path.name for path, role in beside.items() if role == "not read"]:
        whole.notes.append(f"did not read {some(left)}, which hold no weights and can hold programs")
    return whole


def _read_shares(folder: Path) -> Found:
    found = Found(*sharded.read_folder(folder))
    if left := sorted(path.name for path in folder.iterdir() if path.suffix != ".distcp" and path.name != ".metadata"):
        found.notes.append(f"did not read {some(left)}, which is beside the shares")
    return found


def _nothing_to_read(folder: Path, weights: list[Path], files: list[Path]) -> CheckpointError:
    deeper = [
        str(path.parent.relative_to(folder) if path.name == ".metadata" else path.relative_to(folder))
        for depth in ("*/*", "*/*/*", "*/*/*/*")
        for path in sorted(folder.glob(depth))
        if path.name == ".metadata" or looks_like_a_checkpoint(path)
    ]
    if deeper and not weights:
        return CheckpointError(
            f"{folder} has no weights itself, but its folders have {some(deeper)}. Give one of them, or its folder."
        )
    if files:
        return CheckpointError(
            f"{folder} is a folder with {some([path.name for path in weights or files])}. Give one of the files in it."
        )
    return CheckpointError(
        f"{folder} is a folder with nothing that looks like a checkpoint. Is the path right, and the copy whole?"
    )


def _is_index(path: Path) -> bool:
    """Whether a file is the index of a model in several files, or is called like one."""
    if not path.is_file():
        return False
    if path.name.endswith(".index.json"):
        return True
    if path.suffix != ".json":
        return False
    return b'"weight_map"' in path.read_bytes()


def _read_one_index(folder: Path, indexes: list[Path]) -> Found:
    """Read the index of a folder; of the same model as safetensors and as pickle files, take the former, as they do."""
    names = [path.name for path in indexes]
    if len(indexes) > 1 and sorted(names) != ["model.safetensors.index.json", "pytorch_model.bin.index.json"]:
        raise CheckpointError(f"{folder} has several indexes: {some(names)}. Give the path of one of them.")
    found = _read_indexed(indexes[0])
    if len(indexes) > 1:
        found.notes.append(f"took the files of {names[0]} and not those of {names[1]}")
    return found


def _read_indexed(index: Path) -> Found:
    """Put together a model whose index says which tensor is in which file (Hugging Face's layout)."""
    files = _files_of(index)
    parts = {name: read_file(index.parent / name) for name in sorted(set(files.values()))}
    if missing := [name for name, file in files.items() if name not in parts[file].content]:
        raise CheckpointError(f"{index} promises {some(missing)}, which are not in the files that it names.")
    whole = Found(
        {name: parts[file].content[name] for name, file in files.items()}, f"{len(parts)} files with an index"
    )
    for part in parts.values():
        whole.devices |= part.devices
    if left := [name for part in parts.values() for name in part.content if name not in files]:
        whole.notes.append(f"did not use {some(left)}, which {index.name} does not list")
    return whole


def _files_of(index: Path) -> dict[str, str]:
    """Return which file has which tensor; all of them are beside the index."""
    try:
        files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
            raise TypeError
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(
            f"{index} is not the index of a model: it has no weight_map from names of tensors to names of files."
        ) from None
    for name in sorted(set(files.values())):
        if Path(name).name != name or "\\" in name:
            raise CheckpointError(
                f"{index} points out of its folder, to {name}. A file that does that is not to be trusted."
            )
        if not (index.parent / name).is_file():
            raise CheckpointError(
                f"There is no file {name} in {index.parent}, as {index.name} promises. Get it as well."
            )
    return files
