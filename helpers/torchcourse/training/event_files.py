"""The files of a folder of TensorBoard: in which order they were written, and the events in each."""

import functools
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tensorboard.compat.proto.event_pb2 import Event


def suffix(log_dir: str | os.PathLike) -> str:
    """Return what a new file in a folder ends in: its number among the files there, as ".part-3" for the third."""
    try:
        names = [name for name in os.listdir(log_dir) if "tfevents" in name]
    except OSError:
        names = []
    return f".part-{1 + max([len(names), *map(_number, names)])}"


def writer(name: str) -> str:
    """Return the id of the process that wrote a file, which its name holds: `….tfevents.TIME.HOST.PROCESS.NUMBER`."""
    return re.sub(r"\.part-\d+$", "", name).rsplit(".", 2)[1]


def in_order(folder: Path, notes: list[str]) -> list[tuple[Path, list["Event"]]]:
    """Return the files of a folder with their events, in the order in which they were begun.

    Files of `Monitor` have a number that tells it. The others go by the time of their first event, unless a file was
    last changed before the time that its own events tell: then a clock was wrong, and they go by their last change.

    Raises:
        FileNotFoundError: if the folder holds no event files, or does not exist.
        OSError: if it is not a folder or cannot be read.
    """
    files = [(file, list(_events(file, notes))) for file in _files(folder)]
    changed = {file: file.stat().st_mtime for file, _ in files}
    clock_was_wrong = any(event.wall_time > changed[file] + 60 for file, events in files for event in events[-1:])

    def begun(pair: tuple[Path, list["Event"]]) -> tuple[float, str]:
        file, events = pair
        return changed[file] if clock_was_wrong or not events else events[0].wall_time, file.name

    numbered = sorted(
        (pair for pair in files if _number(pair[0].name)), key=lambda pair: (_number(pair[0].name), begun(pair))
    )
    others = sorted((pair for pair in files if not _number(pair[0].name)), key=begun)
    ordered: list[tuple[Path, list[Event]]] = []
    while numbered or others:
        next_is_numbered = numbered and (not others or _number(numbered[0][0].name) <= len(ordered) + 1)
        ordered.append((numbered if next_is_numbered else others).pop(0))
    return ordered


def _number(name: str) -> int:
    """Return the number that `suffix` gave a file, or 0."""
    match = re.search(r"\.part-(\d+)$", name)
    return int(match[1]) if match else 0


def _files(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder) if "tfevents" in name and not (folder / name).is_dir())
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise type(error)(
            f"The folder {folder} cannot be read ({error.strerror or error}). Give the log_dir of a run."
        ) from error
    if not names:
        raise FileNotFoundError(
            f"There are no TensorBoard event files in {folder}. Was a Trainer with log_dir={str(folder)!r} run?"
        )
    return [folder / name for name in names]


def _damaged_scalars(content: bytes) -> set[int]:
    """Return where records begin whose data does not fit its checksum, among those that are short, as scalars are.

    All of one length are looked at together. Longer ones, with histograms and images, would take longer than all the
    rest: their checksums are left to TensorBoard.
    """
    places: dict[int, list[int]] = {}
    place = 0
    while place + 16 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        if length <= _SHORT and place + 16 + length <= len(content):
            places.setdefault(length, []).append(place)
        place += 16 + length
    data, damaged = np.frombuffer(content, dtype=np.uint8), set()
    for length, begun in places.items():
        starts = np.array(begun) + 12
        checksum = np.full(len(starts), 0xFFFFFFFF, dtype=np.uint32)
        for offset in range(length):
            checksum = _table()[(checksum ^ data[starts + offset]) & 0xFF] ^ (checksum >> 8)
        checksum ^= 0xFFFFFFFF
        masked = ((checksum >> 15) | (checksum << 17)) + np.uint32(0xA282EAD8)
        stored = sum(data[starts + length + byte].astype(np.uint32) << (8 * byte) for byte in range(4))
        damaged |= {begun[number] for number in np.flatnonzero(masked != stored)}
    return damaged


_SHORT = 128


@functools.cache
def _table() -> np.ndarray:
    """Return what a byte does to a CRC-32C (RFC 3720, appendix B.4), for each of the 256."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * np.uint32(0x82F63B78)
    return table


def _events(file: Path, notes: list[str]) -> Iterator["Event"]:
    """Yield the events of a file, up to the first that is damaged.

    A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4).
    Source: TensorFlow, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    content, place, count = file.read_bytes(), 0, 0
    damaged = _damaged_scalars(content)
    while place < len(content):
        head = content[place : place + 12]
        length = struct.unpack("<Q", head[:8])[0] if len(head) == 12 else 0
        data = content[place + 12 : place + 12 + length]
        tail = content[place + 12 + length : place + 16 + length]
        problem = None
        if len(head) < 12 or len(tail) < 4:
            problem = "it ends in the middle of a value, as when its writer was killed or is still writing"
        if len(head) == 12 and struct.unpack("<I", head[8:])[0] != masked_crc32c(head[:8]):
            problem = "the bytes are not an event"
        elif place in damaged:
            problem = "the bytes are not those that were written"
        if problem is None:
            try:
                event = Event.FromString(data)
            except DecodeError:
                problem = "the bytes are not an event"
        if problem is not None:
            notes.append(f"{file} is damaged after {count} events: {problem}. All before that was read.")
            return
        yield event
        place, count = place + 16 + length, count + 1
