"""``FreedBytes``: freed memory that the C library keeps goes back to the operating system.

glibc keeps freed blocks for later. Hundreds of files that were fetched and then given up leave
holes that large decoded items don't fit into, so that the process would hold both.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading

#: After so many bytes were given up, the C library is asked to return what it keeps of them.
TRIM_BYTES = 64 * 2**20


class FreedBytes:
    """Counts the bytes that requests gave up; used from any thread."""

    def __init__(self) -> None:
        self._num_bytes = 0
        self._lock = threading.Lock()

    async def add(self, num_bytes: int) -> None:
        """Counts bytes that were freed; where they have become many, they go back."""
        with self._lock:
            self._num_bytes += num_bytes
            is_due = self._num_bytes >= TRIM_BYTES
            if is_due:
                self._num_bytes = 0
        if is_due:
            await asyncio.to_thread(trim_heap)


def trim_heap() -> None:
    """Returns whole free pages to the operating system; nothing where the C library can't.

    It takes milliseconds, without the interpreter's lock.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
