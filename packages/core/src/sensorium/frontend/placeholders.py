"""Where items stand in a prompt: from placeholders in text to slots.

A prompt is cut into segments (text, text that must stay literal, slots), and segments become
token ids. Knows adapters' placeholders, not their media.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sensorium.errors import RequestError
from sensorium.plugins import MediaAdapter, Placeholder, Slot, TokenizedPrompt
from sensorium.plugins.guard import NUMBERS_LOOKED_FOR
from sensorium.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextSegment:
    """Text in which the vocabulary's added tokens are recognised."""

    text: str


@dataclass(frozen=True, slots=True)
class LiteralSegment:
    """Text that looks like an added token and must not become one."""

    text: str


@dataclass(frozen=True, slots=True)
class SlotSegment:
    """An item's placeholder, spelt ``placeholder``.

    Attributes:
        parts_text: as ``Placeholder.parts_text``.
    """

    kind: str
    index: int
    placeholder: str
    parts_text: bool = False


Segment = TextSegment | LiteralSegment | SlotSegment


@dataclass(frozen=True, slots=True)
class Mention:
    """A placeholder found at start … stop-1 of a text or of token ids.

    Attributes:
        index: the item that it names; None: the next of its kind.
    """

    start: int
    stop: int
    kind: str
    index: int | None


def tokenize_prompt(
    tokenizer: Tokenizer,
    adapters: Mapping[str, MediaAdapter],
    counts: Mapping[str, int],
    *,
    text: str,
    add_special_tokens: bool = True,
) -> TokenizedPrompt:
    """Tokenizes a prompt whose placeholders were written by hand.

    Args:
        counts: kind → items in the request; absent: none.
        add_special_tokens: put BOS in front where the checkpoint does.

    Raises:
        RequestError: a kind's placeholders and items differ in number.
    """
    segments = split_text(text, adapters, counts)
    return tokenize_segments(tokenizer, segments, add_special_tokens=add_special_tokens)


def split_text(
    text: str, adapters: Mapping[str, MediaAdapter], counts: Mapping[str, int]
) -> list[Segment]:
    """Cuts a prompt at its placeholders.

    A kind's generic spelling counts only where none of the family's own is in the prompt.

    Raises:
        RequestError: a kind's placeholders and items differ in number.
    """
    spellings = own_spellings(adapters, counts)
    written = {mention.kind for mention in find_mentions(text, spellings)}
    for kind, adapter in adapters.items():
        if kind not in written and counts.get(kind, 0):
            spellings.setdefault(adapter.generic_placeholder, (kind, None))
    mentions = list(find_mentions(text, spellings))
    indices = assign_items(mentions, adapters, counts)
    segments: list[Segment] = []
    copied = 0
    for mention, index in zip(mentions, indices, strict=True):
        placeholder = adapters[mention.kind].placeholder(index)
        own = mention.kind in written
        before, after = ("", "") if own else surroundings(placeholder)
        segments.append(TextSegment(text[copied : mention.start] + before))
        segments.append(slot_segment(mention.kind, index, placeholder))
        segments.append(TextSegment(after))
        copied = mention.stop
    segments.append(TextSegment(text[copied:]))
    return merge_segments(segments)


def own_spellings(
    adapters: Mapping[str, MediaAdapter], counts: Mapping[str, int]
) -> dict[str, tuple[str, int | None]]:
    """The families' own placeholder texts → (kind, the index they name or None).

    Looks for one placeholder more than there are items, to detect one too many; where placeholders
    are numbered, for every number up to ``NUMBERS_LOOKED_FOR``.
    """
    spellings: dict[str, tuple[str, int | None]] = {}
    for kind, adapter in adapters.items():
        texts = [adapter.placeholder(i).text for i in range(counts.get(kind, 0) + 2)]
        indexed = len(set(texts)) > 1
        if indexed:
            further = range(len(texts), NUMBERS_LOOKED_FOR)
            texts += [adapter.placeholder(i).text for i in further]
        for i, text in enumerate(texts):
            spellings.setdefault(text, (kind, i if indexed else None))
    return spellings


def find_mentions(text: str, spellings: Mapping[str, tuple[str, int | None]]) -> Iterator[Mention]:
    """Finds placeholders in text, the longest that fits at each place."""
    if not spellings:
        return
    longest_first = sorted(spellings, key=len, reverse=True)
    for match in re.finditer("|".join(map(re.escape, longest_first)), text):
        kind, index = spellings[match[0]]
        yield Mention(match.start(), match.end(), kind, index)


def assign_items(
    mentions: Sequence[Mention],
    adapters: Mapping[str, MediaAdapter],
    counts: Mapping[str, int],
) -> list[int]:
    """The index of the item that each mention stands for.

    Raises:
        RequestError: not one mention for each item.
    """
    found: dict[str, list[int]] = {kind: [] for kind in adapters}
    for mention in mentions:
        named = found[mention.kind]
        named.append(len(named) if mention.index is None else mention.index)
    for kind, indices in found.items():
        num_items = counts.get(kind, 0)
        if sorted(indices) != list(range(num_items)):
            raise RequestError(mismatch(kind, indices, num_items, adapters[kind]))
    order = {kind: iter(indices) for kind, indices in found.items()}
    return [next(order[mention.kind]) for mention in mentions]


def slot_segment(kind: str, index: int, placeholder: Placeholder) -> SlotSegment:
    """The slot of the item with this index."""
    return SlotSegment(kind, index, placeholder.text, placeholder.parts_text)


def surroundings(placeholder: Placeholder) -> tuple[str, str]:
    """What ``in_context`` has in front of the placeholder and behind it."""
    before, _, after = placeholder.in_context.partition(placeholder.text)
    return before, after


def merge_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Joins neighbours of one sort and drops empty text; an empty literal keeps texts apart."""
    merged: list[Segment] = []
    for segment in segments:
        last = merged[-1] if merged else None
        if isinstance(segment, SlotSegment):
            merged.append(segment)
        elif isinstance(last, TextSegment) and isinstance(segment, TextSegment):
            merged[-1] = TextSegment(last.text + segment.text)
        elif isinstance(last, LiteralSegment) and isinstance(segment, LiteralSegment):
            merged[-1] = LiteralSegment(last.text + segment.text)
        elif segment.text or isinstance(segment, LiteralSegment):
            merged.append(segment)
    return merged


# --- from segments to ids ---------------------------------------------------------------


def tokenize_segments(
    tokenizer: Tokenizer, segments: Sequence[Segment], *, add_special_tokens: bool
) -> TokenizedPrompt:
    """Token ids of segments, with a slot for each of theirs.

    Text is tokenized whole across placeholders that are tokens of the vocabulary, so that
    the ids are those of the whole text; any other placeholder cuts it and leaves no ids. Where
    placeholders part the text, each piece is a text of its own, an empty one too.
    """
    prefix, suffix = tokenizer.affixes if add_special_tokens else ([], [])
    token_ids: list[int] = []
    slots: list[Slot] = []
    for parting, piece in _pieces(segments):
        if parting is not None:
            slots.append(Slot(parting.kind, parting.index, len(token_ids), 0))
        token_ids += prefix
        for number, run in enumerate(_runs(tokenizer, piece)):
            ids, run_slots = _encode_run(tokenizer, run, len(token_ids), continues=number > 0)
            token_ids += ids
            slots += run_slots
        token_ids += suffix
    return TokenizedPrompt(tuple(token_ids), tuple(slots))


def _pieces(segments: Sequence[Segment]) -> Iterator[tuple[SlotSegment | None, list[Segment]]]:
    """The stretches between placeholders that part the text, each with the one before it."""
    parting: SlotSegment | None = None
    piece: list[Segment] = []
    for segment in segments:
        if isinstance(segment, SlotSegment) and segment.parts_text:
            yield parting, piece
            parting, piece = segment, []
        else:
            piece.append(segment)
    yield parting, piece


def _runs(tokenizer: Tokenizer, segments: Sequence[Segment]) -> Iterator[list[Segment]]:
    """The longest stretches that can be tokenized as one text."""
    known = frozenset(tokenizer.added_tokens)
    run: list[Segment] = []
    for segment in segments:
        if isinstance(segment, TextSegment) or (
            isinstance(segment, SlotSegment) and segment.placeholder in known
        ):
            run.append(segment)
            continue
        if run:
            yield run
        yield [segment]
        run = []
    if run:
        yield run


def _encode_run(
    tokenizer: Tokenizer, run: Sequence[Segment], offset: int, *, continues: bool
) -> tuple[list[int], list[Slot]]:
    """One stretch's ids, and its slots in a prompt where it begins at ``offset``."""
    if isinstance(run[0], LiteralSegment):
        return tokenizer.encode_plain(run[0].text, continues=continues), []
    slots = [segment for segment in run if isinstance(segment, SlotSegment)]
    wanted = [tokenizer.token_to_id(slot.placeholder) for slot in slots]
    text = "".join(s.placeholder if isinstance(s, SlotSegment) else s.text for s in run)
    ids = tokenizer.encode(text, continues=continues)
    places = [i for i, token_id in enumerate(ids) if token_id in wanted]
    if [ids[i] for i in places] == wanted:
        found = zip(slots, places, strict=True)
        return ids, [Slot(slot.kind, slot.index, offset + i, 1) for slot, i in found]
    return _encode_apart(tokenizer, run, offset, continues=continues)


def _encode_apart(
    tokenizer: Tokenizer, run: Sequence[Segment], offset: int, *, continues: bool
) -> tuple[list[int], list[Slot]]:
    """As ``_encode_run`` where the placeholders aren't found in the whole text's ids."""
    ids: list[int] = []
    slots: list[Slot] = []
    for segment in run:
        if isinstance(segment, SlotSegment):
            slots.append(Slot(segment.kind, segment.index, offset + len(ids), 0))
        else:
            ids += tokenizer.encode(segment.text, continues=continues)
        continues = True
    return ids, slots


def mismatch(kind: str, indices: Sequence[int], num_items: int, adapter: MediaAdapter) -> str:
    """The sentence for placeholders that aren't one for each item."""
    texts = list(dict.fromkeys(adapter.placeholder(i).text for i in range(max(num_items, 1))))
    spelling = texts[0] if len(texts) == 1 else f"{texts[0]} … {texts[-1]}"
    items = f"{num_items} item{'' if num_items == 1 else 's'} of kind {kind}"
    if len(indices) == num_items:
        return f"The prompt must have each of {spelling} once for its {items}."
    found = f"{len(indices)} placeholder{'' if len(indices) == 1 else 's'}"
    return f"The prompt has {found} ({spelling}) for {items}; it must have one for each."
