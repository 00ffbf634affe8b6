"""Each contract catches the mistakes it is there for: seeded ones, one a line of the tables below.

A mutant is a contract class whose plugin has one mistake. The check that it is caught by is named
with words of the sentence that it must say; the same check passes without the mistake.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from family_helpers import make_adapter, open_folder
from PIL import Image
from tiny_checkpoints import make_qwen25vl

from sensorium.media.digest import Digest
from sensorium.plugins import EncoderOutput, MediaAdapter, MediaKind, WeightMap
from sensorium.testing.adapter import MediaAdapterContract
from sensorium.testing.kind import MediaKindContract
from sensorium.types import Composition, Loaded, MediaPlan, MediaShape, Probe, ValueSource
from sensorium_media_image.families.qwen_vl import QwenImages, QwenVLFamily
from sensorium_media_image.kind import ImageKind

from . import test_contracts as strangers

FOLDER = tempfile.TemporaryDirectory()


@pytest.fixture(scope="module", autouse=True)
def plugins(installed: Any) -> Iterator[None]:
    with (
        installed(strangers.DISTRIBUTION, strangers.SOURCE, strangers.MODULE),
        installed("plays", strangers.PLAYS, "plays_plugin"),
    ):
        yield


@dataclass(frozen=True)
class Mutant:
    """A mistake: where it is planted, the check that must notice, and words that it must say."""

    base: type
    plant: Callable[[Any], Any]
    check: str
    words: str


# --- mistakes of kinds ------------------------------------------------------------------


def digest_without_dtype(kind: MediaKind) -> None:
    kind.digest = lambda sources: Digest("x").add(kind.array(sources).tobytes()).digest()


def digest_of_the_first_row(kind: MediaKind) -> None:
    kind.digest = lambda sources: Digest("x").add(kind.array(sources)[0]).digest()


def digest_of_the_object(kind: MediaKind) -> None:
    kind.digest = lambda sources: Digest("x").add(id(sources[0].value)).digest()


def load_that_raises_its_own_error(kind: MediaKind) -> None:
    def load(sources: Any) -> Loaded:
        raise ValueError("not a play")

    kind.probe = kind.load = load


def load_that_takes_anything(kind: MediaKind) -> None:
    kind.probe = kind.load = lambda sources: Loaded(np.zeros((1, 6), np.float32), MediaShape((1,)))


def load_in_place(kind: MediaKind) -> None:
    def load(sources: Any) -> Loaded:
        array = kind.array(sources)
        array *= 0.5
        return Loaded(array.copy(), MediaShape((len(array),)))

    kind.load = load


def probe_off_by_one(kind: MediaKind) -> None:
    probe = kind.probe

    def off_by_one(sources: Any) -> Probe:
        told = probe(sources)
        return replace(told, shape=MediaShape((told.shape.size[0] + 1,)))

    kind.probe = off_by_one


def split_without_numbers(kind: MediaKind) -> None:
    split = kind.split
    kind.split = lambda value: [replace(item, index=0) for item in split(value)]


def list_of_one_is_another_item(kind: MediaKind) -> None:
    split = kind.split

    def scaled(value: Any) -> Any:
        return split([2 * value[0]] if isinstance(value, list) and len(value) == 1 else value)

    kind.split = scaled


def part_that_is_another_item(kind: MediaKind) -> None:
    parse_part = kind.parse_part
    kind.parse_part = lambda part_type, value: parse_part(
        part_type, None if value is None else 2 * value
    )


def part_without_a_value_with_data(kind: MediaKind) -> None:
    parse_part = kind.parse_part
    kind.parse_part = lambda part_type, value: parse_part(
        part_type, np.ones((1, 6)) if value is None else value
    )


def two_derived_items_of_one_name(kind: MediaKind) -> None:
    load = kind.load
    kind.load = lambda sources: replace(load(sources), derived=load(sources).derived * 2)


def digest_of_any_value(kind: MediaKind) -> None:
    kind.digest = lambda sources: Digest("x").add(sources[0].value.astype(np.float32)).digest()


KIND_MUTANTS = [
    Mutant(
        strangers.TestPlay,
        list_of_one_is_another_item,
        "test_a_value_alone_is_a_list_of_one",
        "another item in a list",
    ),
    Mutant(
        strangers.TestPlay,
        part_that_is_another_item,
        "test_chat_parts_are_the_items_that_split_makes",
        "gives another item",
    ),
    Mutant(
        strangers.TestPlay,
        part_without_a_value_with_data,
        "test_a_part_without_a_value_is_an_item_without_data",
        "without a value has data",
    ),
    Mutant(
        strangers.TestPlay,
        two_derived_items_of_one_name,
        "test_what_is_found_inside_is_told_apart",
        "are both called",
    ),
    Mutant(
        strangers.TestPlay,
        load_that_takes_anything,
        "test_what_is_of_no_form_is_refused",
        "was accepted",
    ),
    Mutant(
        strangers.TestPlay,
        digest_of_any_value,
        "test_naming_a_hostile_value_raises_nothing_foreign",
        "digest raised AttributeError",
    ),
    Mutant(
        strangers.TestPlay,
        digest_without_dtype,
        "test_shape_and_type_count_in_the_digest",
        "lookalikes",
    ),
    Mutant(
        strangers.TestPlay,
        digest_of_the_first_row,
        "test_one_changed_element_changes_the_digest",
        "misses the change",
    ),
    Mutant(
        strangers.TestPlay,
        digest_of_the_object,
        "test_equal_bytes_have_equal_digests",
        "another digest the second time",
    ),
    Mutant(
        strangers.TestPlay,
        load_that_raises_its_own_error,
        "test_hostile_values_are_refused",
        "raised ValueError",
    ),
    Mutant(
        strangers.TestPlay,
        load_that_takes_anything,
        "test_hostile_values_are_refused",
        "was accepted",
    ),
    Mutant(
        strangers.TestPlay,
        load_in_place,
        "test_loading_repeats_itself_and_changes_nothing",
        "loads differently|the caller's",
    ),
    Mutant(
        strangers.TestPlay,
        probe_off_by_one,
        "test_probe_tells_the_shape_that_load_gives",
        "probe says",
    ),
    Mutant(
        strangers.TestPlay,
        split_without_numbers,
        "test_split_numbers_the_items",
        "number items from 0",
    ),
]


def kind_mutant(mutant: Mutant) -> Any:
    class Mistaken(mutant.base):
        def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
            kind = super().make_kind(options)
            mutant.plant(kind)
            return kind

    return Mistaken()


# --- mistakes of adapters and encoders --------------------------------------------------


def plan_off_by_one(adapter: MediaAdapter) -> None:
    def plan(shape: MediaShape, options: Any) -> MediaPlan:
        num_tokens = shape.size[0] + 1
        return MediaPlan(num_tokens, (0,) * num_tokens)

    adapter.plan = plan


def plan_that_remembers(adapter: MediaAdapter) -> None:
    plan, seen = adapter.plan, []

    def remembering(shape: MediaShape, options: Any) -> MediaPlan:
        seen.append(shape)
        return replace(plan(shape, options), grid=(len(seen),))

    adapter.plan = remembering


def plan_that_raises_its_own_error(adapter: MediaAdapter) -> None:
    adapter.plan = lambda shape, options: 1 // 0


def process_in_place(adapter: MediaAdapter) -> None:
    process = adapter.process

    def processed(loaded: Loaded, plan: MediaPlan, options: Any) -> Any:
        loaded.value[0] = 0
        return process(loaded, plan, options)

    adapter.process = processed


def process_at_random(adapter: MediaAdapter) -> None:
    adapter.process = lambda *_: {"acts": {"rows": torch.rand(4, 6)}}


def features_under_a_wrong_name(adapter: MediaAdapter) -> None:
    process = adapter.process
    adapter.process = lambda *given: {"act": process(*given)["acts"]}


def option_that_is_not_in_the_key(adapter: MediaAdapter) -> None:
    class Hidden(dict[str, Any]):
        """Options that say nothing of a gain, and know one."""

    def options(kwargs: Mapping[str, Any]) -> Any:
        hidden = Hidden()
        hidden.gain = float(kwargs.get("gain", 1.0))
        return hidden

    process = adapter.process
    adapter.options = options
    adapter.process = lambda loaded, plan, given: process(loaded, plan, {"gain": given.gain})


def worst_case_too_small(adapter: MediaAdapter) -> None:
    adapter.worst_case = lambda options, io_options: MediaShape((5,))


def placeholder_that_is_not_in_its_context(adapter: MediaAdapter) -> None:
    placeholder = adapter.placeholder
    adapter.placeholder = lambda index: replace(placeholder(index), in_context="a play")


def embeds_of_any_number(adapter: MediaAdapter) -> None:
    adapter.plan_embeds = lambda rows, fields, options: MediaPlan(rows, (0,) * rows)


ADAPTER_MUTANTS = [
    Mutant(
        strangers.TestPlayAdapter,
        plan_off_by_one,
        "test_the_encoders_return_as_many_rows_as_planned",
        "is planned with",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        plan_that_remembers,
        "test_plans_follow_from_shape_and_options_alone",
        "planned before it",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        plan_that_raises_its_own_error,
        "test_a_shape_is_planned_or_refused_as_media",
        "raised ZeroDivisionError",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        process_in_place,
        "test_processing_repeats_itself_and_leaves_the_item_alone",
        "process wrote into",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        process_at_random,
        "test_processing_repeats_itself_and_leaves_the_item_alone",
        "processed differently",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        features_under_a_wrong_name,
        "test_features_are_those_of_its_encoders",
        "the encoders are",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        option_that_is_not_in_the_key,
        "test_what_changes_the_result_changes_the_key",
        "under one key",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        worst_case_too_small,
        "test_the_worst_case_is_the_worst",
        "worst_case says",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        placeholder_that_is_not_in_its_context,
        "test_the_placeholder_stands_once_in_its_context",
        "must hold",
    ),
    Mutant(
        strangers.TestPlayAdapter,
        embeds_of_any_number,
        "test_embeddings_are_planned_as_the_item_or_not_at_all",
        "plan_embeds took",
    ),
]


def adapter_mutant(mutant: Mutant) -> Any:
    class Mistaken(mutant.base):
        def make_adapter(self) -> MediaAdapter:
            adapter = super().make_adapter()
            mutant.plant(adapter)
            return adapter

    return Mistaken()


Encode = Callable[[Sequence[Any]], list[EncoderOutput]]


def mixes_batch_mates(encode: Encode) -> Encode:
    def mixed(items: Sequence[Any]) -> list[EncoderOutput]:
        outputs = encode(items)
        mean = torch.cat([output.embeds for output in outputs]).mean(0)
        return [EncoderOutput(output.embeds - 0.01 * mean) for output in outputs]

    return mixed


def returns_the_batch_backwards(encode: Encode) -> Encode:
    return lambda items: [encode([item])[0] for item in items[::-1]]


def pads_its_rows(encode: Encode) -> Encode:
    def padded(items: Sequence[Any]) -> list[EncoderOutput]:
        rows = [output.embeds for output in encode(items)]
        whole = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return [EncoderOutput(row) for row in whole]

    return padded


def loses_an_item(encode: Encode) -> Encode:
    return lambda items: encode(items)[: max(1, len(items) - 1)]


def returns_not_a_number(encode: Encode) -> Encode:
    return lambda items: [EncoderOutput(output.embeds / 0) for output in encode(items)]


ENCODER_MUTANTS = [
    (mixes_batch_mates, "test_an_item_does_not_depend_on_its_batch_mates", "among batch mates"),
    (
        returns_the_batch_backwards,
        "test_an_item_does_not_depend_on_its_batch_mates",
        "among batch m",
    ),
    (pads_its_rows, "test_an_item_does_not_depend_on_its_batch_mates", "among batch mates"),
    (loses_an_item, "test_an_item_does_not_depend_on_its_batch_mates", "outputs came of"),
    (returns_not_a_number, "test_the_encoders_return_as_many_rows_as_planned", "aren't finite"),
]


class InPieces(torch.nn.Module):
    """An encoder that makes a row at a time, with a mistake or without."""

    def __init__(self, whole: Encode, mistake: str) -> None:
        super().__init__()
        self.whole, self.mistake = whole, mistake

    def forward(self, items: Sequence[Any]) -> list[EncoderOutput]:
        return self.whole(items)

    def encode_piece(self, item: Any, piece: int, num_pieces: int) -> EncoderOutput:
        [output] = self.whole([item])
        at = num_pieces - 1 - piece if self.mistake == "backwards" else piece
        stop = at + (2 if self.mistake == "overlapping" else 1)
        rows = output.embeds[at:at] if self.mistake == "empty" else output.embeds[at:stop]
        deep = rows[None] if self.mistake == "levels" and piece else None
        return EncoderOutput(rows, deep)


def divided(mistake: str) -> strangers.TestPlayAdapter:
    class Divided(strangers.TestPlayAdapter):
        def make_adapter(self) -> MediaAdapter:
            adapter = super().make_adapter()
            plan = adapter.plan
            adapter.plan = lambda shape, options: replace(
                plan(shape, options), num_pieces=plan(shape, options).num_tokens
            )
            return adapter

        def make_encoders(self) -> Any:
            whole = super().make_encoders()
            if mistake == "none":
                return whole
            return {name: InPieces(encode, mistake) for name, encode in whole.items()}

    return Divided()


PIECE_MISTAKES = {
    "none": "has no encode_piece",
    "backwards": "from the item alone and whole",
    "overlapping": "has the shape",
    "empty": "a piece has no rows",
    "levels": "levels must come with every piece",
}


@pytest.mark.parametrize(("mistake", "words"), PIECE_MISTAKES.items(), ids=PIECE_MISTAKES)
def test_a_mistake_in_pieces_is_caught(mistake: str, words: str) -> None:
    divided("").test_the_pieces_of_an_item_are_the_item()
    with pytest.raises(AssertionError, match=words):
        divided(mistake).test_the_pieces_of_an_item_are_the_item()


@pytest.mark.parametrize("mutant", KIND_MUTANTS, ids=lambda m: m.plant.__name__)
def test_a_kinds_mistake_is_caught(mutant: Mutant) -> None:
    getattr(mutant.base(), mutant.check)()
    with pytest.raises(AssertionError, match=mutant.words):
        getattr(kind_mutant(mutant), mutant.check)()


@pytest.mark.parametrize("mutant", ADAPTER_MUTANTS, ids=lambda m: m.plant.__name__)
def test_an_adapters_mistake_is_caught(mutant: Mutant) -> None:
    getattr(mutant.base(), mutant.check)()
    with pytest.raises(AssertionError, match=mutant.words):
        getattr(adapter_mutant(mutant), mutant.check)()


@pytest.mark.parametrize(
    ("spoil", "check", "words"), ENCODER_MUTANTS, ids=[m[0].__name__ for m in ENCODER_MUTANTS]
)
def test_an_encoders_mistake_is_caught(
    spoil: Callable[[Encode], Encode], check: str, words: str
) -> None:
    class Mistaken(strangers.TestPlayAdapter):
        def make_encoders(self) -> Any:
            return {name: spoil(encode) for name, encode in super().make_encoders().items()}

    getattr(strangers.TestPlayAdapter(), check)()
    with pytest.raises(AssertionError, match=words):
        getattr(Mistaken(), check)()


# --- mistakes of the image kind and of an image family -----------------------------------

PIXELS = np.random.default_rng(1).integers(0, 256, (6, 9, 3), dtype=np.uint8)


class Pictures(MediaKindContract):
    """Arrays whose bytes are alike, and pictures that differ in their mode alone."""

    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        return ImageKind(options)

    def values(self) -> Sequence[Any]:
        return [PIXELS, PIXELS[::-1].copy()]

    def lookalikes(self) -> Iterator[tuple[Any, Any]]:
        yield PIXELS, PIXELS.reshape(9, 6, 3)
        yield Image.fromarray(PIXELS), Image.frombytes("YCbCr", (9, 6), PIXELS.tobytes())


def value_of(sources: Sequence[Any]) -> Any:
    (source,) = sources
    assert isinstance(source, ValueSource)
    return source.value


@pytest.mark.parametrize(
    ("digest", "words"),
    [
        (lambda value: Digest("x").add(np.asarray(value).tobytes()), "pair 0 of lookalikes"),
        (lambda value: Digest("x").add(np.asarray(value)), "pair 1 of lookalikes"),
    ],
    ids=["forgets the shape", "forgets the mode"],
)
def test_an_image_digest_that_forgets_is_caught(digest: Any, words: str) -> None:
    class Mistaken(Pictures):
        def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
            kind: Any = super().make_kind(options)
            kind.digest = lambda sources: digest(value_of(sources)).digest()
            return kind

    Pictures().test_shape_and_type_count_in_the_digest()
    with pytest.raises(AssertionError, match=words):
        Mistaken().test_shape_and_type_count_in_the_digest()


class HashedImages(ImageKind):
    """Names a picture by Python's hash, which another process draws anew."""

    def digest(self, sources: Sequence[Any]) -> bytes:
        return Digest("x").add(hash(value_of(sources).tobytes())).digest()


def test_a_digest_of_this_process_alone_is_caught() -> None:
    class Mistaken(Pictures):
        def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
            return HashedImages(options)

    Pictures().test_the_digest_is_the_same_in_another_process()
    with pytest.raises(AssertionError, match="another digest in another process"):
        Mistaken().test_the_digest_is_the_same_in_another_process()


class Qwen(MediaAdapterContract):
    """Images for a tiny Qwen2.5-VL."""

    def make_kind(self) -> MediaKind:
        return ImageKind({})

    def make_adapter(self) -> MediaAdapter:
        folder = Path(FOLDER.name) / "qwen"
        if not folder.exists():
            make_qwen25vl(folder)
        return make_adapter(QwenImages, QwenVLFamily(), open_folder(folder))

    def values(self) -> Sequence[Any]:
        return [np.zeros((90, 130, 3), np.uint8), np.zeros((60, 60, 3), np.uint8)]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Any:
        return {"image_grid_thw": torch.tensor([1, 2 * plan.grid[1], 2 * plan.grid[2]])}


def trusts_the_grid(adapter: Any) -> None:
    def plan_embeds(num_rows: int, fields: Any, options: Any) -> MediaPlan:
        _, rows, columns = fields["image_grid_thw"].tolist()
        return adapter._grid_plan(rows // 2, columns // 2)

    adapter.plan_embeds = plan_embeds


def forgets_max_pixels(adapter: Any) -> None:
    adapter.worst_case = lambda options, io_options: MediaShape((448, 448))


@pytest.mark.parametrize(
    ("plant", "check", "words"),
    [
        (trusts_the_grid, "test_embeddings_are_planned_as_the_item_or_not_at_all", "plan_embeds"),
        (forgets_max_pixels, "test_the_worst_case_is_the_worst", "worst_case says"),
    ],
)
def test_an_image_adapters_mistake_is_caught(plant: Any, check: str, words: str) -> None:
    getattr(Qwen(), check)()
    with pytest.raises(AssertionError, match=words):
        getattr(adapter_mutant(Mutant(Qwen, plant, check, words)), check)()


# --- mistakes of families ---------------------------------------------------------------


def a_row_twice(composition: Composition) -> Composition:
    first, *rest = composition.spans
    start, stop = first.item_slice
    return replace(composition, spans=(replace(first, item_slice=(start + 1, stop + 1)), *rest))


def one_token_for_two(composition: Composition) -> Composition:
    spans = [replace(s, is_embed=bytes([1, 0, 0]) * (s.length // 3)) for s in composition.spans]
    spans = [replace(s, item_slice=(0, s.length // 3)) for s in spans]
    return replace(composition, spans=tuple(spans))


def out_of_the_prompt(composition: Composition) -> Composition:
    *rest, last = composition.spans
    return replace(composition, spans=(*rest, replace(last, offset=last.offset + 10**6)))


def positions_of_another_length(composition: Composition) -> Composition:
    return replace(composition, positions=np.zeros((1, 3), np.int64))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (a_row_twice, "don't use each of the"),
        (one_token_for_two, "two spans that replace the same token"),
        (out_of_the_prompt, "a span of the tokens"),
        (positions_of_another_length, "positions of the shape"),
    ],
)
def test_a_familys_composition_is_checked(
    spoil: Callable[[Composition], Composition],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import plays_plugin

    strangers.TestPlayFamily().test_prompts_are_composed_soundly(tmp_path)
    compose = plays_plugin.PlayFamily.compose

    def spoilt(self: Any, prompt: Any, items: Any, *rest: Any) -> Composition:
        composition = compose(self, prompt, items, *rest)
        return spoil(composition) if items else composition

    monkeypatch.setattr(plays_plugin.PlayFamily, "compose", spoilt)
    with pytest.raises(AssertionError, match=words):
        strangers.TestPlayFamily().test_prompts_are_composed_soundly(tmp_path)


def test_a_weight_that_nobody_claims_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plays_plugin

    strangers.TestPlayFamily().test_every_weight_is_claimed_once(tmp_path)
    whole = plays_plugin.PlayFamily.decoder_weights
    fewer = lambda self, config: WeightMap(whole(self, config).rules[1:])  # noqa: E731
    monkeypatch.setattr(plays_plugin.PlayFamily, "decoder_weights", fewer)
    with pytest.raises(AssertionError, match="0 tables claim the weight"):
        strangers.TestPlayFamily().test_every_weight_is_claimed_once(tmp_path)


def test_media_that_do_not_reach_the_answer_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import plays_plugin

    def silent(self: Any, items: Sequence[Any]) -> list[EncoderOutput]:
        size = self.project.out_features
        return [EncoderOutput(torch.zeros(len(item["rows"]), size)) for item in items]

    class Mistaken(strangers.TestPlayFamily):
        def prompts(self) -> Sequence[Any]:
            plays = [strangers.array(3, 6, seed) for seed in range(2)]
            return [{"prompt": "<play> or <play>", "multi_modal_data": {"play": plays}}]

    Mistaken().test_the_answer_depends_on_the_media(tmp_path)
    monkeypatch.setattr(plays_plugin.Reader, "forward", silent)
    with pytest.raises(AssertionError, match="don't reach the answer"):
        Mistaken().test_the_answer_depends_on_the_media(tmp_path)


def test_what_the_author_left_out_is_said() -> None:
    for contract, method in (
        (MediaKindContract, "values"),
        (MediaAdapterContract, "make_encoders"),
    ):
        with pytest.raises(
            NotImplementedError, match=rf"{contract.__name__} must define {method}\("
        ):
            getattr(contract(), method)()
