"""A disk that can't set space aside, as NFS before 4.2: the kernel refuses it for the rest of this process."""

import ctypes
import errno
import platform
import struct

CALLS = {"x86_64": 285, "aarch64": 47}  # numbers of fallocate
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2  # of prctl
_REFUSE, _ALLOW = 0x00050000, 0x7FFF0000


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def refuse_fallocate() -> bool:
    """Let the system refuse each fallocate; return whether that can be done here."""
    number = CALLS.get(platform.machine())
    if number is None:
        return False
    steps = (
        (0x20, 0, 0, 0),  # load the call's number
        (0x15, 0, 1, number),
        (0x06, 0, 0, _REFUSE | errno.EOPNOTSUPP),
        (0x06, 0, 0, _ALLOW),
    )
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    library = ctypes.CDLL(None)
    if library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return library.prctl(_SECCOMP, _FILTER, ctypes.byref(program), 0, 0) == 0
