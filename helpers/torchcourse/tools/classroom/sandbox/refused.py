"""System calls that nothing in a sandbox gets: memory that belongs to no process, and rarely used parts of the kernel.

What is written into a memfd or a segment of System V is in no process's memory, so that no limit would count it. The
filter is a program for seccomp(2), which reads the architecture and the number of each call (`struct seccomp_data`).
"""

import ctypes
import errno
import os
import struct

# memfd_create, shmget, bpf, perf_event_open, add_key, request_key, keyctl, userfaultfd
_NUMBERS = {
    "x86_64": (0xC000003E, (319, 29, 321, 298, 248, 249, 250, 323)),
    "aarch64": (0xC00000B7, (279, 194, 280, 241, 217, 218, 219, 282)),
}
_EVERYWHERE = (425, 447)  # io_uring_setup, memfd_secret
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: ld abs, jeq, jge, ret
_ALLOWED, _REFUSED = 0x7FFF0000, 0x00050000 | errno.ENOSYS
_X32 = 0x40000000  # a second set of numbers on x86_64
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2


def refuse() -> None:
    """Let these calls fail, as on a system without them, in this process and all that it starts.

    Raises:
        OSError: if this system has no such filters.
    """
    machine = os.uname().machine
    if machine not in _NUMBERS:
        return
    architecture, own = _NUMBERS[machine]
    numbers = [*own, *_EVERYWHERE]
    last = len(numbers) + 1  # steps from the first comparison to the answer "refused"
    steps = [(_LOAD, 0, 0, 4), (_EQUAL, 0, last + 2, architecture), (_LOAD, 0, 0, 0), (_AT_LEAST, last, 0, _X32)]
    steps += [(_EQUAL, last - place, 0, number) for place, number in enumerate(numbers, start=1)]
    steps += [(_RETURN, 0, 0, _ALLOWED), (_RETURN, 0, 0, _REFUSED)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for asked in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, program, 0, 0)):
        if libc.prctl(*asked):
            raise OSError(ctypes.get_errno(), "prctl")
