"""``StopStrings``: finds where a growing text must end.

Special tokens that are left out of the text can still be part of a stop string: each has a mark, a
lone surrogate, which no decoded text holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class StopStrings:
    """Reads one text as it grows and finds the first of its stop strings.

        [ let through ][ held: may yet become a stop string ][ new ]

    Args:
        strings: the stop strings.
        hidden: texts of tokens that are left out of the text, longest first → their ids.
    """

    def __init__(self, strings: Sequence[str], hidden: Mapping[str, int] | None = None) -> None:
        self._held = ""
        self._by_spelling: dict[str, str] = {string: string for string in strings}
        #: Ids of hidden tokens that a stop string holds → what stands for them in ``push``.
        self.marks: dict[int, str] = {}
        for string in strings:
            self._by_spelling[self._marked(string, hidden or {})] = string

    def __bool__(self) -> bool:
        return bool(self._by_spelling)

    def push(self, new: str, *, may_end: bool = True) -> tuple[str, str | None]:
        """Takes more text.

        Args:
            new: text, and marks where a hidden token stands.
            may_end: whether the text may end with it already.

        Returns:
            The text that is no part of a stop string, and the stop string that ends it. Of those
            that the new text completes it is the one that begins first.
        """
        window = self._held + new
        start, spelling = self._find(window, len(new)) if may_end else (-1, "")
        if start >= 0:
            self._held = ""
            return self._visible(window[:start]), self._by_spelling[spelling]
        num_held = self._num_held(window)
        if self.marks and not self._has_mark(window[len(window) - num_held :]):
            window = self._visible(window)
            num_held = self._num_held(window)
        passed = len(window) - num_held
        self._held = window[passed:]
        return self._visible(window[:passed]), None

    def flush(self) -> str:
        """The text held back, once it can't become a stop string."""
        held, self._held = self._held, ""
        return self._visible(held)

    def _find(self, window: str, num_new: int) -> tuple[int, str]:
        """Where the first match begins (-1: there is none), and its spelling."""
        best, best_spelling = -1, ""
        for spelling in self._by_spelling:
            at = window.find(spelling, max(0, len(window) - num_new - len(spelling) + 1))
            if at >= 0 and (best < 0 or at < best):
                best, best_spelling = at, spelling
        return best, best_spelling

    def _num_held(self, window: str) -> int:
        """How many characters at the end may still become part of a stop string."""
        longest = 0
        for spelling in self._by_spelling:
            for length in range(min(len(spelling) - 1, len(window)), longest, -1):
                if window.endswith(spelling[:length]):
                    longest = length
                    break
        return longest

    def _marked(self, string: str, hidden: Mapping[str, int]) -> str:
        for text, token_id in hidden.items():
            if text in string:
                mark = self.marks.setdefault(token_id, chr(0xD800 + len(self.marks)))
                string = string.replace(text, mark)
        return string

    def _has_mark(self, text: str) -> bool:
        return any(mark in text for mark in self.marks.values())

    def _visible(self, text: str) -> str:
        for mark in self.marks.values():
            text = text.replace(mark, "")
        return text
