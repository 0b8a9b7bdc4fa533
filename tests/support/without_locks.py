"""`python -m tests.support.without_locks ERRNO PROGRAM...`: the kernel answers ERRNO to the program's every file lock.

A seccomp filter does this for the system calls fcntl (to set a record lock) and flock, as a file system does that has
no locks: NFS without a lock service answers ENOLCK, others EOPNOTSUPP.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD_WORD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _SECOND_ARGUMENT = 0, 24
"""Offsets in struct seccomp_data: the number of the system call, and the low word of its second argument."""
_FCNTL_FLOCK = {"x86_64": (72, 73), "aarch64": (25, 32)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_locks(number: int) -> None:
    """Answer `number` to this process's file locks from now on, and to those of the programs that it becomes."""
    fcntl_number, flock_number = _FCNTL_FLOCK[platform.machine()]
    instructions = (
        (_LOAD_WORD, 0, 0, _NUMBER),
        (_IF_EQUAL, 4, 0, flock_number),  # to the last
        (_IF_EQUAL, 0, 2, fcntl_number),  # else: allow
        (_LOAD_WORD, 0, 0, _SECOND_ARGUMENT),
        (_IF_EQUAL, 1, 0, fcntl.F_SETLK),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | number),
    )
    packed = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = _Program(len(instructions), packed)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    refuse_locks(getattr(errno, sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  (a test's own program)
