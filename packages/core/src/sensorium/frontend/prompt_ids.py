"""Where items stand in a prompt that is given as token ids.

[… 7 …]        one placeholder an item, as the family writes it
[… 7 7 7 7 …]  already what a model family's processor makes of it: the item's own tokens
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sensorium.errors import RequestError
from sensorium.frontend.placeholders import Mention, assign_items, mismatch
from sensorium.plugins import MediaAdapter, Slot, TokenizedPrompt
from sensorium.types import PreparedItem


@dataclass(frozen=True, slots=True)
class ExpandedPrompt:
    """Ids that hold more placeholders than there are items: perhaps the items' own tokens.

    Attributes:
        mentions: every placeholder.
        adapters: kind → who made its placeholders.
    """

    token_ids: tuple[int, ...]
    mentions: tuple[Mention, ...]
    adapters: Mapping[str, MediaAdapter]

    def placed(self, items: Sequence[PreparedItem]) -> TokenizedPrompt:
        """The prompt with a slot where each item's tokens stand, now that these are known.

        Raises:
            RequestError: the ids aren't the items' tokens, one item behind another.
        """
        slots: list[Slot] = []
        for kind in dict.fromkeys(mention.kind for mention in self.mentions):
            slots += self._slots(kind, [item for item in items if item.kind == kind])
        slots.sort(key=lambda slot: slot.offset)
        return TokenizedPrompt(self.token_ids, tuple(slots))

    def _slots(self, kind: str, items: Sequence[PreparedItem]) -> Iterator[Slot]:
        mentions = [mention for mention in self.mentions if mention.kind == kind]
        # Derived items have their parent's index and stand behind it.
        tokens: dict[int, tuple[int, ...]] = {}
        for item in items:
            tokens[item.index] = tokens.get(item.index, ()) + item.plan.token_ids
        uncovered = list(mentions)
        at = 0
        for index, own in sorted(tokens.items()):
            at = _find(self.token_ids, own, at)
            if at < 0:
                break
            yield Slot(kind, index, at, len(own))
            at += len(own)
            uncovered = [m for m in uncovered if not at - len(own) <= m.start < at]
        if at < 0 or uncovered:
            sizes = ", ".join(str(len(own)) for own in tokens.values())
            raise RequestError(
                mismatch(kind, [0] * len(mentions), len(tokens), self.adapters[kind])
                + " Ids in which a processor has expanded the placeholders are taken only where "
                f"each item's are exactly its tokens here ({sizes})."
            )


def tokenized_ids(
    token_ids: Sequence[int], adapters: Mapping[str, MediaAdapter], counts: Mapping[str, int]
) -> TokenizedPrompt | ExpandedPrompt:
    """Finds the placeholders in ids.

    Args:
        counts: kind → items in the request; absent: none.

    Raises:
        RequestError: a kind has fewer placeholders than items, or some without any; or its
            placeholder isn't in the vocabulary.
    """
    mentions = tuple(_find_runs(token_ids, _spellings(adapters, counts)))
    for kind in adapters:
        num_found = sum(mention.kind == kind for mention in mentions)
        if 0 < counts.get(kind, 0) < num_found:
            return ExpandedPrompt(tuple(token_ids), mentions, adapters)
    indices = assign_items(mentions, adapters, counts)
    slots = (
        Slot(mention.kind, index, mention.start, mention.stop - mention.start)
        for mention, index in zip(mentions, indices, strict=True)
    )
    return TokenizedPrompt(tuple(token_ids), tuple(slots))


def _spellings(
    adapters: Mapping[str, MediaAdapter], counts: Mapping[str, int]
) -> dict[tuple[int, ...], tuple[str, int | None]]:
    """The families' own placeholders as ids → (kind, the index they name or None)."""
    spellings: dict[tuple[int, ...], tuple[str, int | None]] = {}
    for kind, adapter in adapters.items():
        runs = [adapter.placeholder(i).token_ids for i in range(counts.get(kind, 0) + 2)]
        if () in runs:
            if counts.get(kind, 0):
                raise RequestError(
                    f"The placeholder {adapter.placeholder(0).text} isn't in the vocabulary: "
                    f"with items of kind {kind} the prompt must be given as text."
                )
            continue
        indexed = len(set(runs)) > 1
        for i, run in enumerate(runs):
            spellings.setdefault(run, (kind, i if indexed else None))
    return spellings


def _find_runs(
    token_ids: Sequence[int], spellings: Mapping[tuple[int, ...], tuple[str, int | None]]
) -> Iterator[Mention]:
    by_first: dict[int, list[tuple[int, ...]]] = {}
    for run in sorted(spellings, key=len, reverse=True):
        by_first.setdefault(run[0], []).append(run)
    at = 0
    while at < len(token_ids):
        for run in by_first.get(token_ids[at], ()):
            if tuple(token_ids[at : at + len(run)]) == run:
                yield Mention(at, at + len(run), *spellings[run])
                at += len(run)
                break
        else:
            at += 1


def _find(token_ids: tuple[int, ...], wanted: tuple[int, ...], start: int) -> int:
    """Where ``wanted`` begins from ``start`` on; -1: nowhere."""
    while True:
        try:
            start = token_ids.index(wanted[0], start)
        except ValueError:
            return -1
        if token_ids[start : start + len(wanted)] == wanted:
            return start
        start += 1
