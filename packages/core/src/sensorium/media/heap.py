"""Freed memory that the C library keeps goes back to the operating system.

glibc keeps freed blocks for later. Hundreds of files that were fetched and then given up leave
holes that large decoded items don't fit into, so that the process would hold both.
"""

from __future__ import annotations

import ctypes


def trim_heap() -> None:
    """Returns whole free pages to the operating system; nothing where the C library can't.

    It takes milliseconds, without the interpreter's lock.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
