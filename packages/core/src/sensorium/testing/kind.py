"""``MediaKindContract``: the rules for every ``MediaKind``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from sensorium.errors import ConfigError, RequestError
from sensorium.media.process import resolve_all
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.reader import MediaReader, close_readers
from sensorium.plugins.returns import check_kinds
from sensorium.testing.media import (
    given,
    load,
    missing,
    pairs,
    refused,
    same,
    snapshot,
    sources_of,
    within_budget,
)
from sensorium.testing.other_process import CannotTravelError, digests_elsewhere
from sensorium.types import BytesSource, Loaded


class MediaKindContract:
    """Derive ``class TestMyKind(MediaKindContract)`` and define ``make_kind`` and ``values``.

    Attributes:
        max_seconds, max_bytes: what refusing one bad input may take.
    """

    max_seconds: ClassVar[float] = 10.0
    max_bytes: ClassVar[int] = 256 * 2**20

    # --- what the author says ----------------------------------------------------------

    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        """A new instance, with these ``media_io_kwargs``."""
        raise missing(self, "make_kind(options)", "a new instance of your kind")

    def values(self) -> Sequence[Any]:
        """Two or more values, each one item of ``multi_modal_data``, no two alike."""
        raise missing(self, "values()", "two or more values that differ in content")

    def changed(self) -> Iterable[tuple[Any, Any]]:
        """Pairs of values that differ in one element alone (a number, a letter, a byte)."""
        raise missing(self, "changed()", "pairs of values that differ in one element")

    def lookalikes(self) -> Iterable[tuple[Any, Any]]:
        """Pairs of values with the same bytes and another meaning: shape, dtype, mode, rate."""
        return ()

    def encoded(self) -> Sequence[bytes]:
        """Valid files, where the kind reads any: they are cut off and emptied."""
        return ()

    def hostile(self) -> Iterable[Any]:
        """Values that must be refused: bombs, wrong types, wrong shapes."""
        return ()

    def loading_options(self) -> Sequence[Mapping[str, Any]]:
        """``media_io_kwargs`` of which each changes what ``load`` makes of some value."""
        return ()

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        """(part type, its value, the same item as ``multi_modal_data`` takes it).

        One at least for each of the kind's ``part_types``, unless it takes embeddings alone.
        """
        return ()

    # --- what must hold ----------------------------------------------------------------

    @property
    def kind(self) -> MediaKind:
        """A new instance without options."""
        return self.make_kind({})

    def test_the_class_is_one_that_can_be_registered(self) -> None:
        """Name, part types, limits."""
        check_kinds([type(self.kind)])

    def test_an_unknown_option_is_an_error(self) -> None:
        with pytest.raises(ConfigError):
            self.make_kind({"no option has this name": 1})

    def test_split_numbers_the_items(self) -> None:
        kind, values = self.kind, list(self.values())
        assert len(values) >= 2, "values() must give two values at least"
        items = kind.split([values[0], None, values[1]])
        assert [item.index for item in items] == [0, 1, 2], "split must number items from 0"
        assert {item.kind for item in items} == {kind.name}, "an item has another kind's name"
        assert [item.has_data for item in items] == [True, False, True], (
            "None in a list must become an item without data"
        )
        assert [item.index for item in kind.split(values[0])] == [0]

    def test_a_value_alone_is_a_list_of_one(self) -> None:
        kind = self.kind
        for i, value in enumerate(self.values()):
            alone, listed = (kind.digest(sources_of(kind, v)) for v in (value, [value]))
            assert alone == listed, f"value {i} is another item in a list than alone"

    def test_chat_parts_are_the_items_that_split_makes(self) -> None:
        kind = self.kind
        for part_type, part, value in given(self.parts(), "parts"):
            assert part_type in kind.part_types, f"{part_type} is none of the kind's part_types"
            item = kind.parse_part(part_type, part)
            assert (item.kind, item.index) == (kind.name, 0), "a part's item has a wrong name"
            digest = kind.digest(resolve_all(kind, item.sources))
            assert digest == kind.digest(sources_of(kind, value)), (
                f"the part {part_type} gives another item than the same value in split"
            )

    def test_a_part_without_a_value_is_an_item_without_data(self) -> None:
        for part_type in given(self.kind.part_types, "part_types"):
            item = self.kind.parse_part(part_type, None)
            assert not item.has_data, f"the part {part_type} without a value has data"

    def test_what_is_found_inside_is_told_apart(self) -> None:
        kind = self.kind
        for value in self.values():
            derived = self._load(kind, value).derived
            names = [(item.kind, item.name) for item in derived]
            assert len(set(names)) == len(names), f"two derived items are both called {names[0]}"
            for item in derived:
                assert not item.loaded.derived, f"the derived {item.name} has derived items itself"

    def test_equal_bytes_have_equal_digests(self) -> None:
        for i, value in enumerate(self.values()):
            digests = {
                kind.digest(sources_of(kind, one))
                for kind, one in ((self.kind, value), (self.kind, snapshot(value)))
            }
            assert len(digests) == 1, f"value {i} has another digest the second time"
            assert len(digests.pop()) == 32, "a digest has 32 bytes"

    def test_the_digest_is_the_same_in_another_process(self) -> None:
        """Keys outlive a process; ``hash`` and ``id`` don't."""
        kind = self.kind
        several = [sources_of(kind, value) for value in self.values()]
        try:
            elsewhere = digests_elsewhere(type(kind), several)
        except CannotTravelError as error:
            pytest.skip(f"another process can't have it: {error}")
        for i, (here, there) in enumerate(zip(map(kind.digest, several), elsewhere, strict=True)):
            assert here == there, f"value {i} has another digest in another process"

    def test_different_values_have_different_digests(self) -> None:
        kind, values = self.kind, list(self.values())
        digests = [kind.digest(sources_of(kind, value)) for value in values]
        for i, j in pairs(values):
            assert digests[i] != digests[j], f"values {i} and {j} have the same digest"

    def test_one_changed_element_changes_the_digest(self) -> None:
        kind = self.kind
        for i, (one, other) in enumerate(self.changed()):
            first, second = (kind.digest(sources_of(kind, value)) for value in (one, other))
            assert first != second, f"the digest misses the change of pair {i} of changed()"

    def test_shape_and_type_count_in_the_digest(self) -> None:
        kind = self.kind
        for i, (one, other) in enumerate(given(self.lookalikes(), "lookalikes")):
            first, second = (kind.digest(sources_of(kind, value)) for value in (one, other))
            assert first != second, f"the digest can't tell pair {i} of lookalikes() apart"

    def test_what_loads_alike_is_what_has_one_digest(self) -> None:
        """Two values that share a digest must load to the same."""
        kind, values = self.kind, list(self.values())
        loaded = [self._load(kind, value) for value in values]
        for i, j in pairs(values):
            assert not same(loaded[i], loaded[j]), f"values {i} and {j} load to the same"

    def test_the_digest_decodes_nothing(self) -> None:
        """A file has a digest however damaged it is."""
        kind = self.kind
        for data in given(self.encoded(), "encoded"):
            cut = data[: len(data) // 2]
            digests = {kind.digest([BytesSource(part)]) for part in (data, cut)}
            assert len(digests) == 2, "a file and its first half have the same digest"

    def test_probe_tells_the_shape_that_load_gives(self) -> None:
        kind = self.kind
        for i, value in enumerate([*self.values(), *self.encoded()]):
            sources = sources_of(kind, value)
            probe, loaded = kind.probe(sources), self._load(kind, value)
            told, given_ = probe.shape, loaded.shape
            assert told.size == given_.size, f"probe says {told.size}, load gave {given_.size}"
            for name, fact in told.facts.items():
                assert given_.facts.get(name) == fact, (
                    f"probe says {name} = {fact!r}, load gave {given_.facts.get(name)!r}"
                )
            unnamed = set(given_.facts) - set(kind.fact_names)
            assert not unnamed, f"{unnamed} isn't in fact_names"
            assert 0 <= probe.decoded_bytes <= kind.max_decoded_bytes, (
                f"value {i} is over the limit"
            )
            if kind.size_names:
                assert len(given_.size) == len(kind.size_names), "size and size_names differ"

    def test_loading_repeats_itself_and_changes_nothing(self) -> None:
        kind = self.kind
        for i, value in enumerate(self.values()):
            before = kind.digest(sources_of(kind, value))
            first = snapshot(self._load(kind, value))
            assert same(first, self._load(kind, value)), (
                f"value {i} loads differently the second time"
            )
            after = kind.digest(sources_of(kind, value))
            assert before == after, f"loading changed value {i}, which is the caller's"

    def test_options_that_change_loading_are_in_the_key(self) -> None:
        for options in given(self.loading_options(), "loading_options"):
            plain, changed = self.kind, self.make_kind(options)
            differs = any(
                not same(self._load(plain, v), self._load(changed, v)) for v in self.values()
            )
            assert differs, f"{dict(options)} changes nothing that load makes of values()"
            assert plain.options_key() != changed.options_key(), (
                f"{dict(options)} changes what load makes, and options_key() doesn't show it"
            )

    def test_files_that_are_cut_off_are_refused(self) -> None:
        kind = self.kind
        for i, data in enumerate(given(self.encoded(), "encoded")):
            for share in (0.02, 0.3, 0.6, 0.9):
                self._refused(kind, data[: int(share * len(data))], f"file {i} cut at {share:.0%}")

    def test_empty_and_meaningless_files_are_refused(self) -> None:
        given(self.encoded(), "encoded")
        for data in (b"", b"\0", b"\xff" * 4096, b"no file of any kind"):
            self._refused(self.kind, data, f"the {len(data)} bytes {data[:8]!r}")

    def test_what_is_of_no_form_is_refused(self) -> None:
        for value in (object(), {"no key has this name": 1}, lambda: None, {1, 2}, 1j):
            self._refused(self.kind, value, f"a {type(value).__name__}")

    def test_hostile_values_are_refused(self) -> None:
        for i, value in enumerate(given(self.hostile(), "hostile")):
            self._refused(self.kind, value, f"value {i} of hostile()")

    def test_naming_a_hostile_value_raises_nothing_foreign(self) -> None:
        """``digest`` runs before ``probe``: it too is reached by whatever a caller sends."""
        kind = self.kind
        for i, value in enumerate(given([*self.hostile(), object(), {1, 2}], "hostile")):
            try:
                kind.digest(sources_of(kind, value))
            except RequestError:
                continue
            except Exception as error:
                raise AssertionError(
                    f"digest raised {type(error).__name__} at hostile value {i}; only MediaError "
                    "and LimitError may leave a kind"
                ) from error

    def teardown_method(self) -> None:
        """Closes what a test has opened."""
        for loaded in self.__dict__.pop("_opened", ()):
            close_readers(loaded)

    def _load(self, kind: MediaKind, value: Any) -> Loaded:
        loaded = load(kind, value)
        self.__dict__.setdefault("_opened", []).append(loaded)
        return loaded

    def _refused(self, kind: MediaKind, value: Any, what: str) -> None:
        with (
            within_budget(what, max_seconds=self.max_seconds, max_bytes=self.max_bytes),
            refused(what),
        ):
            sources = sources_of(kind, value)
            kind.probe(sources)
            loaded = kind.load(sources)
            try:
                if isinstance(loaded.value, MediaReader):
                    for _ in loaded.value.pieces():
                        pass  # damage shows only when the item is read
            finally:
                close_readers(loaded)
