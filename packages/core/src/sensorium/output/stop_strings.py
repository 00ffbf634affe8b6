"""``StopStrings``: where a growing text must end."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string found in a text: it covers start … stop-1."""

    string: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class StopStrings:
    """The stop strings of one request."""

    strings: tuple[str, ...]

    def find(self, text: str, num_new: int) -> StopMatch | None:
        """The match that begins first among those that the last ``num_new`` characters complete."""
        best: StopMatch | None = None
        for string in self.strings:
            at = text.find(string, max(0, len(text) - num_new - len(string) + 1))
            if at >= 0 and (best is None or at < best.start):
                best = StopMatch(string, at, at + len(string))
        return best

    def num_held(self, text: str) -> int:
        """How many characters at the text's end may still become part of a stop string."""
        longest = 0
        for string in self.strings:
            for length in range(min(len(string) - 1, len(text)), longest, -1):
                if text.endswith(string[:length]):
                    longest = length
                    break
        return longest
