"""System calls that nothing in a sandbox gets: memory that belongs to no process, and rarely used parts of the kernel.

What is written into a memfd, a segment of System V or memory that is shared without a file stays when it is unmapped,
and is in no process's memory then; semaphores and queues of System V never are. No limit would count any of it. A
socket of any other family than these may reach what no namespace hides, such as the host of a virtual machine. The
filter is a program for seccomp(2), which reads the architecture, the number and the arguments of each call (`struct
seccomp_data`).
"""

import ctypes
import errno
import os
import socket
import struct
from typing import NamedTuple


class _Machine(NamedTuple):
    architecture: int
    refused: tuple[int, ...]
    mmap: int
    socket: int


# memfd_create, shmget, semget, msgget, bpf, perf_event_open, add_key, request_key, keyctl, userfaultfd
_MACHINES = {
    "x86_64": _Machine(0xC000003E, (319, 29, 64, 68, 321, 298, 248, 249, 250, 323), 9, 41),
    "aarch64": _Machine(0xC00000B7, (279, 194, 190, 186, 280, 241, 217, 218, 219, 282), 222, 198),
}
_EVERYWHERE = (425, 447)  # io_uring_setup, memfd_secret
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, 16)  # the last: netlink, which lists the interfaces
_SHARED_AND_NO_FILE = 0x01 | 0x20  # of mmap's flags
_LOAD, _EQUAL, _AT_LEAST, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF: ld abs, jeq, jge, and, ret
_NUMBER, _ARCHITECTURE, _FIRST, _FOURTH = 0, 4, 16, 40  # bytes from the start to what is read, the lower half of it
_ALLOWED, _REFUSED, _NO_FAMILY = 0x7FFF0000, 0x00050000 | errno.ENOSYS, 0x00050000 | errno.EAFNOSUPPORT
_X32 = 0x40000000  # a second set of numbers on x86_64
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2

_Step = tuple[int, int, int, int]


def refuse() -> None:
    """Let these calls fail, as on a system without them, in this process and all that it starts.

    Raises:
        OSError: if this system has no such filters.
    """
    machine = _MACHINES.get(os.uname().machine)
    if machine is None:
        return
    steps = _steps(machine)
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for asked in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*asked):
            raise OSError(ctypes.get_errno(), "prctl")


def _steps(machine: _Machine) -> list[_Step]:
    """Return the program. A comparison names how many steps are left out if it holds, and if it does not."""
    refused, allowed = (_RETURN, 0, 0, _REFUSED), (_RETURN, 0, 0, _ALLOWED)
    steps = [(_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, machine.architecture), refused]
    steps += [(_LOAD, 0, 0, _NUMBER), (_AT_LEAST, 0, 1, _X32), refused]
    for number in (*machine.refused, *_EVERYWHERE):
        steps += [(_EQUAL, 0, 1, number), refused]
    memory = [(_LOAD, 0, 0, _FOURTH), (_AND, 0, 0, _SHARED_AND_NO_FILE), (_EQUAL, 0, 1, _SHARED_AND_NO_FILE), refused]
    steps += [(_EQUAL, 0, len(memory) + 1, machine.mmap), *memory, allowed]
    families: list[_Step] = [(_LOAD, 0, 0, _FIRST)]
    for family in _FAMILIES:
        families += [(_EQUAL, 0, 1, int(family)), allowed]
    return [*steps, (_EQUAL, 0, len(families) + 1, machine.socket), *families, (_RETURN, 0, 0, _NO_FAMILY), allowed]
