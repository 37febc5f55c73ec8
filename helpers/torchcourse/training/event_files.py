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


def _damaged(content: bytes) -> set[int]:
    """Return where records begin whose data does not fit its checksum, among those of at most a MiB."""
    parts: list[list[tuple[int, int]]] = []
    place = room = 0
    while place + 16 <= len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        if 4 <= length <= _LONGEST and place + 16 + length <= len(content):
            if room <= 0:  # all at once takes twice as much memory as the file
                parts.append([])
                room = _AT_ONCE
            parts[-1].append((place, length))
            room -= length + _BLOCK
        place += 16 + length
    return {place for part in parts for place in _damaged_of(content, part)}


def _damaged_of(content: bytes, places: list[tuple[int, int]]) -> set[int]:
    """Return which of these records are damaged, each where it begins and how long it is.

    They are looked at together, in blocks. That begins with zeros in the register, so that zeros before the data change
    nothing; all ones, with which a CRC-32C begins, turn the first four bytes round instead.
    """
    (begun, lengths), data = np.array(places).T, np.frombuffer(content, dtype=np.uint8)
    blocks = -(-lengths // _BLOCK)
    ends = blocks.cumsum()
    pieces = (content[place + 12 : place + 12 + length] for place, length in places)
    justified = (piece.rjust(count * _BLOCK, b"\0") for piece, count in zip(pieces, blocks.tolist(), strict=True))
    padded = np.frombuffer(b"".join(justified), dtype=np.uint8).copy()
    padded[(ends * _BLOCK - lengths)[:, None] + np.arange(4)] ^= 0xFF
    of_blocks = np.zeros(ends[-1], dtype=np.uint32)
    for column in padded.reshape(-1, _BLOCK).T.copy():
        of_blocks = _table()[(of_blocks ^ column) & 0xFF] ^ (of_blocks >> 8)
    checksum, longest_first = np.zeros(len(places), dtype=np.uint32), np.argsort(-blocks)
    for number in range(blocks.max()):
        longer = longest_first[: np.searchsorted(-blocks[longest_first], -number)]
        moved = [table[(checksum[longer] >> (8 * byte)) & 0xFF] for byte, table in enumerate(_past_a_block())]
        checksum[longer] = np.bitwise_xor.reduce(moved) ^ of_blocks[(ends - blocks)[longer] + number]
    checksum ^= 0xFFFFFFFF
    masked = ((checksum >> 15) | (checksum << 17)) + np.uint32(0xA282EAD8)
    stored = sum(data[begun + 12 + lengths + byte].astype(np.uint32) << (8 * byte) for byte in range(4))
    return {int(place) for place in begun[masked != stored]}


_BLOCK = 128
_AT_ONCE = 2**24
_LONGEST = 2**20  # bytes, as of an image that fills a screen: longer ones would take longer than all the rest


@functools.cache
def _table() -> np.ndarray:
    """Return what a byte does to a CRC-32C (RFC 3720, appendix B.4), for each of the 256."""
    table: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (table & 1) * np.uint32(0x82F63B78)
    return table


@functools.cache
def _past_a_block() -> np.ndarray:
    """Return what a block of zeros makes of each of the 256 values of each of the 4 bytes of a CRC-32C."""
    tables: np.ndarray = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32))[:, None]
    for _ in range(_BLOCK):
        tables = _table()[tables & 0xFF] ^ (tables >> 8)
    return tables


def _events(file: Path, notes: list[str]) -> Iterator["Event"]:
    """Yield the events of a file, up to the first that is damaged.

    A record is its length (8 bytes), a checksum of the length (4), the data, and a checksum of the data (4).
    Source: TensorFlow, https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    content, place, count = file.read_bytes(), 0, 0
    damaged = _damaged(content)
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
