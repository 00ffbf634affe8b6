"""``Places``: how many requests an engine holds, and when it refuses one more."""

from __future__ import annotations

import math
import threading
import time

from sensorium.errors import OverloadedError

#: Bounds of the ``retry_after_s`` hint, in seconds.
_MIN_RETRY_S, _MAX_RETRY_S = 1.0, 60.0
#: Weight of the newest value in the average time between two requests' ends.
_NEWEST = 0.1


class Places:
    """Counts unfinished requests, from their arrival to their end; used from any thread.

    Args:
        max_num_running: requests that may run at once.
        max_num_queued: requests that may wait beside those; None: any number.
    """

    def __init__(self, max_num_running: int, max_num_queued: int | None) -> None:
        self._max_num_queued = max_num_queued
        self._limit = math.inf if max_num_queued is None else max_num_running + max_num_queued
        self._lock = threading.Lock()
        self._num_taken = 0
        self._last_end_s: float | None = None
        self._between_ends_s = 0.0

    @property
    def num_taken(self) -> int:
        """Unfinished requests: being prepared, waiting or running."""
        return self._num_taken

    def __enter__(self) -> None:
        """Takes a place.

        Raises:
            OverloadedError: there is none.
        """
        with self._lock:
            if self._num_taken < self._limit:
                self._num_taken += 1
                return
            retry_s = min(max(self._between_ends_s, _MIN_RETRY_S), _MAX_RETRY_S)
        raise OverloadedError(
            f"The engine holds {self._num_taken} requests; max_queued_requests lets "
            f"{self._max_num_queued} wait beside those that run. Try again later.",
            retry_after_s=retry_s,
        )

    def __exit__(self, *_: object) -> None:
        """Gives a place back."""
        now_s = time.monotonic()
        with self._lock:
            self._num_taken -= 1
            if self._last_end_s is not None:
                between_s = now_s - self._last_end_s
                self._between_ends_s += _NEWEST * (between_s - self._between_ends_s)
            self._last_end_s = now_s
