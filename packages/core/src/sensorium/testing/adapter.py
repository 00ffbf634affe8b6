"""``MediaAdapterContract``: the rules for every ``MediaAdapter`` and the encoders it feeds."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from sensorium.errors import MediaError, RequestError
from sensorium.media.keys import item_key
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.compose import Slot, TokenizedPrompt
from sensorium.plugins.encoder import Encoder, EncoderOutput
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.reader import close_readers
from sensorium.plugins.returns import check_adapters
from sensorium.testing.media import load, missing, pairs, same, snapshot
from sensorium.types import Features, Loaded, MediaPlan, MediaShape

if TYPE_CHECKING:
    import torch

Options = Mapping[str, Any]
#: Sides that random sizes are drawn from, besides the small ones.
LARGEST_SIDE = 3000


class MediaAdapterContract:
    """Derive ``class TestMyAdapter(MediaAdapterContract)`` and define the first four methods.

    Attributes:
        tolerance: how far an item's rows may move by its batch mates, relative to the largest.
        num_random_shapes: shapes to plan beside the author's.
    """

    tolerance: ClassVar[float] = 1e-4
    num_random_shapes: ClassVar[int] = 200

    # --- what the author says ----------------------------------------------------------

    def make_kind(self) -> MediaKind:
        """The kind that the adapter takes."""
        raise missing(self, "make_kind()", "an instance of the kind that the adapter takes")

    def make_adapter(self) -> MediaAdapter:
        """A new instance, for a small checkpoint."""
        raise missing(self, "make_adapter()", "a new instance for a small checkpoint")

    def make_encoders(self) -> Mapping[str, Encoder]:
        """The adapter's encoders by name, with weights of any kind, in float32 on the CPU."""
        raise missing(self, "make_encoders()", "encoder name → module")

    def values(self) -> Sequence[Any]:
        """Two or more values of the kind, of different sizes, small enough to encode."""
        raise missing(self, "values()", "values of the kind, of different sizes")

    def option_settings(self) -> Sequence[Options]:
        """``mm_processor_kwargs`` to try, {} among them."""
        return ({},)

    def shapes(self) -> Sequence[MediaShape]:
        """Shapes to plan; give the family's difficult cases here."""
        return ()

    def random_shape(self, rng: random.Random) -> MediaShape | None:
        """A shape to plan, any that the kind can have; None: only ``shapes()`` are tried.

        By default one with random extents, where the kind names its extents and has no facts.
        """
        kind = self.make_kind()
        if kind.fact_names or not kind.size_names:
            return None
        largest = 12 if rng.random() < 0.25 else LARGEST_SIDE
        return MediaShape(tuple(rng.randint(1, largest) for _ in kind.size_names))

    # --- what must hold ----------------------------------------------------------------

    def test_the_class_is_one_that_can_be_registered(self) -> None:
        adapter = self.make_adapter()
        check_adapters([type(adapter)])
        assert adapter.kind == self.make_kind().name, "the adapter takes another kind"
        assert set(self.make_encoders()) == set(adapter.encoders), "make_encoders() makes others"

    def test_the_placeholder_stands_once_in_its_context(self) -> None:
        for index in (0, 1, 7):
            placeholder = self.make_adapter().placeholder(index)
            assert placeholder.text, "a placeholder needs a text"
            assert placeholder.in_context.count(placeholder.text) == 1, (
                f"in_context {placeholder.in_context!r} must hold {placeholder.text!r} once"
            )

    def test_plans_follow_from_shape_and_options_alone(self) -> None:
        one, other = self.make_adapter(), self.make_adapter()
        for kwargs in self.option_settings():
            options = one.options(kwargs)
            shapes = list(self._plannable(one, options))
            assert shapes, "none of the shapes tried can be planned"
            plans = [one.plan(shape, options) for shape in shapes]
            backwards = [other.plan(shape, options) for shape in reversed(shapes)]
            assert plans == backwards[::-1], "a plan depends on what was planned before it"

    def test_a_shape_is_planned_or_refused_as_media(self) -> None:
        adapter = self.make_adapter()
        for kwargs in self.option_settings():
            options = adapter.options(kwargs)
            for shape in self._all_shapes():
                self._plan(adapter, shape, options)

    def test_what_changes_the_result_changes_the_key(self) -> None:
        adapter, loaded = self.make_adapter(), self._loaded()
        resolved = [adapter.options(kwargs) for kwargs in self.option_settings()]
        results = [[_processed(adapter, one, options) for one in loaded] for options in resolved]
        for i, j in pairs(resolved):
            if not same(results[i], results[j]):
                assert _key(adapter, resolved[i]) != _key(adapter, resolved[j]), (
                    f"{dict(self.option_settings()[i])} and {dict(self.option_settings()[j])} give "
                    "different results under one key: options() must return what made them differ"
                )

    def test_version_and_salt_are_in_the_key(self) -> None:
        adapter = self.make_adapter()
        options = adapter.options({})
        raised = type(type(adapter).__name__, (type(adapter),), {"version": adapter.version + 1})
        raised.__module__ = type(adapter).__module__
        newer: MediaAdapter = raised(adapter.context)
        keys = {_key(adapter, options), _key(newer, options), _key(adapter, options, salt="a")}
        assert len(keys) == 3, "version or salt don't count in the key"

    def test_processing_repeats_itself_and_leaves_the_item_alone(self) -> None:
        adapter = self.make_adapter()
        for kwargs in self.option_settings():
            options = adapter.options(kwargs)
            for i, loaded in enumerate(self._loaded()):
                before = snapshot(loaded)
                first = snapshot(_processed(adapter, loaded, options)[1])
                assert same(loaded, before), f"process wrote into value {i}, which is the caller's"
                again = _processed(self.make_adapter(), loaded, options)[1]
                assert same(first, again), f"value {i} is processed differently the second time"

    def test_features_are_those_of_its_encoders(self) -> None:
        import torch

        adapter = self.make_adapter()
        for loaded in self._loaded():
            _, features = _processed(adapter, loaded, adapter.options({}))
            assert sorted(features) == sorted(adapter.encoders), (
                f"features are for {sorted(features)}; the encoders are {sorted(adapter.encoders)}"
            )
            for named in features.values():
                for name, tensor in named.items():
                    assert isinstance(tensor, torch.Tensor), f"the feature {name} is no tensor"
                    assert tensor.is_cpu, f"the feature {name} isn't in host memory"

    def test_features_survive_the_flat_buffer(self) -> None:
        from sensorium.engine.ipc.packing import pack, unpack

        adapter = self.make_adapter()
        for loaded in self._loaded():
            _, features = _processed(adapter, loaded, adapter.options({}))
            packed = pack(features)
            unpacked = unpack(packed.header, packed.buffer)
            plain = {encoder: dict(named) for encoder, named in features.items()}
            assert same(plain, unpacked), "features changed in a flat buffer"

    def test_the_encoders_return_as_many_rows_as_planned(self) -> None:
        adapter, encoders = self.make_adapter(), self.make_encoders()
        for kwargs in self.option_settings():
            options = adapter.options(kwargs)
            for loaded in self._loaded():
                plan, features = _processed(adapter, loaded, options)
                outputs = [_encode(encoders[n], [features[n]])[0] for n in adapter.encoders]
                num_rows = sum(len(output.embeds) for output in outputs)
                assert num_rows == plan.num_tokens, (
                    f"{_said(loaded.shape)} is planned with {plan.num_tokens} tokens, and its "
                    f"encoders return {num_rows} rows"
                )
                for output in outputs:
                    _check_output(output, adapter.context.decoder.hidden_size)

    def test_an_item_does_not_depend_on_its_batch_mates(self) -> None:
        adapter, encoders = self.make_adapter(), self.make_encoders()
        options = adapter.options({})
        features = [_processed(adapter, loaded, options)[1] for loaded in self._loaded()]
        for name in adapter.encoders:
            batch = [named[name] for named in features]
            alone = [_encode(encoders[name], [one])[0] for one in batch]
            together = _encode(encoders[name], batch)
            backwards = _encode(encoders[name], batch[::-1])[::-1]
            for i, expected in enumerate(alone):
                for output in (together[i], backwards[i]):
                    self._check_near(
                        output.embeds, expected.embeds, f"{name}: value {i} among batch mates"
                    )
                    if expected.deep is not None:
                        assert output.deep is not None, f"{name}: value {i} lost its levels"
                        self._check_near(
                            output.deep,
                            expected.deep,
                            f"{name}: value {i}'s levels among batch mates",
                        )

    def test_the_pieces_of_an_item_are_the_item(self) -> None:
        import torch

        adapter, encoders = self.make_adapter(), self.make_encoders()
        for kwargs in self.option_settings():
            options = adapter.options(kwargs)
            for loaded in self._loaded():
                plan, features = _processed(adapter, loaded, options)
                if plan.num_pieces == 1:
                    continue
                for name in adapter.encoders:
                    what = f"{name}: {_said(loaded.shape)} in {plan.num_pieces} pieces"
                    whole = _encode(encoders[name], [features[name]])[0]
                    pieces = _encode_pieces(encoders[name], features[name], plan.num_pieces, what)
                    embeds = torch.cat([piece.embeds for piece in pieces])
                    self._check_near(embeds, whole.embeds, what)
                    levels = [piece.deep for piece in pieces if piece.deep is not None]
                    assert len(levels) == (0 if whole.deep is None else len(pieces)), (
                        f"{what}: levels must come with every piece, or with none"
                    )
                    if whole.deep is not None:
                        self._check_near(torch.cat(levels, dim=1), whole.deep, f"{what}, levels")

    def test_composed_prompts_hold_what_was_planned(self) -> None:
        from sensorium.plugins.compose import walk_slots
        from sensorium.testing.compositions import check_composition
        from sensorium.types import PreparedItem

        adapter = self.make_adapter()
        options = adapter.options({})
        items = [
            PreparedItem(adapter.kind, i, bytes([i]) * 32, *_processed(adapter, loaded, options))
            for i, loaded in enumerate(self._loaded())
        ]
        ids = (0,) * (2 * len(items) + 1)
        slots = tuple(Slot(adapter.kind, i, 2 * i + 1, 1) for i in range(len(items)))
        composition = walk_slots(TokenizedPrompt(ids, slots), items, {adapter.kind: adapter})
        vocab_size = adapter.context.decoder.vocab_size
        check_composition(composition, items, axes=1, vocab_size=vocab_size)

    def test_the_worst_case_is_the_worst(self) -> None:
        adapter = self.make_adapter()
        for kwargs in self.option_settings():
            options = adapter.options(kwargs)
            worst = adapter.worst_case(options, self.make_kind().options_key())
            most = adapter.plan(worst, options).num_tokens
            for shape in self._all_shapes():
                plan = self._plan(adapter, shape, options)
                assert plan is None or plan.num_tokens <= most, (
                    f"worst_case says {_said(worst)} with {most} tokens; {_said(shape)} takes "
                    f"{plan.num_tokens if plan else 0}"
                )

    def test_a_blank_item_of_the_worst_case_can_be_made(self) -> None:
        """A kind may make no blank items at all; memory profiling then leaves it out."""
        adapter, kind = self.make_adapter(), self.make_kind()
        options = adapter.options({})
        worst = adapter.worst_case(options, kind.options_key())
        blank = kind.blank(worst)
        if blank is None:
            assert kind.blank(self._loaded()[0].shape) is None, "blank() knows some shapes only"
            return
        assert blank.shape == worst, (
            f"the blank item has the shape {_said(blank.shape)}, not {_said(worst)}"
        )
        plan, features = _processed(adapter, blank, options)
        assert plan.num_tokens > 0, "the worst case takes no tokens"
        assert features, "the worst case has no features"

    def test_embeddings_are_planned_as_the_item_or_not_at_all(self) -> None:
        import torch

        adapter = self.make_adapter()
        options = adapter.options({})
        for loaded in self._loaded():
            plan = adapter.plan(loaded.shape, options)
            fields = self.embeds_fields_of(loaded, plan)
            if fields is None:
                zeros = {name: torch.zeros(3, dtype=torch.int64) for name in adapter.embeds_fields}
                _refuses_embeds(adapter, plan.num_tokens, zeros, options, "any embeddings")
                continue
            assert set(fields) == set(adapter.embeds_fields), "embeds_fields_of() gives others"
            planned = adapter.plan_embeds(plan.num_tokens, fields, options)
            assert planned == plan, (
                "embeddings are planned differently from the item they stand for"
            )
            for num_rows in self.refused_rows(plan):
                _refuses_embeds(adapter, num_rows, fields, options, f"{num_rows} rows")
            for name, field in fields.items():
                for bad in (-field, field * 0, field.reshape(-1)[:0], field[None], field * 2**40):
                    wrong = {**fields, name: bad}
                    what = f"{name} = {bad.tolist()}"
                    _refuses_embeds(adapter, plan.num_tokens, wrong, options, what)

    def embeds_fields_of(
        self, loaded: Loaded, plan: MediaPlan
    ) -> Mapping[str, torch.Tensor] | None:
        """The fields that embeddings of this item come with; None: the adapter takes none."""
        return None

    def refused_rows(self, plan: MediaPlan) -> Sequence[int]:
        """Numbers of embedding rows that don't fit ``embeds_fields_of`` the item of this plan.

        Of media of any length, whose embeddings may have as many rows as they like, give those
        that can't be an item's at all, or none.
        """
        return (plan.num_tokens - 1, plan.num_tokens + 1, 10**9)

    # --- helpers -----------------------------------------------------------------------

    def teardown_method(self) -> None:
        """Closes what a test has opened."""
        for loaded in self.__dict__.pop("_opened", ()):
            close_readers(loaded)

    def _loaded(self) -> list[Loaded]:
        kind, values = self.make_kind(), list(self.values())
        assert len(values) >= 2, "values() must give two values at least"
        loaded = [load(kind, value) for value in values]
        self.__dict__.setdefault("_opened", []).extend(loaded)
        return loaded

    def _all_shapes(self) -> Iterator[MediaShape]:
        yield from self.shapes()
        yield from (loaded.shape for loaded in self._loaded())
        rng = random.Random(7)
        for _ in range(self.num_random_shapes):
            shape = self.random_shape(rng)
            if shape is None:
                return
            yield shape

    def _plannable(self, adapter: MediaAdapter, options: Options) -> Iterator[MediaShape]:
        for shape in self._all_shapes():
            if self._plan(adapter, shape, options) is not None:
                yield shape

    def _plan(self, adapter: MediaAdapter, shape: MediaShape, options: Options) -> MediaPlan | None:
        try:
            return adapter.plan(shape, options)
        except MediaError:
            return None
        except Exception as error:
            raise AssertionError(
                f"planning {_said(shape)} raised {type(error).__name__}; a shape is refused by a "
                "MediaError"
            ) from error

    def _check_near(self, ours: torch.Tensor, expected: torch.Tensor, what: str) -> None:
        assert ours.shape == expected.shape, (
            f"{what} has the shape {tuple(ours.shape)}; alone and whole it is "
            f"{tuple(expected.shape)}"
        )
        moved = float((ours - expected).abs().max())
        allowed = self.tolerance * max(1.0, float(expected.abs().max()))
        assert moved <= allowed, f"{what} differs by {moved:.2g} from the item alone and whole"


def _processed(
    adapter: MediaAdapter, loaded: Loaded, options: Options
) -> tuple[MediaPlan, Mapping[str, Features]]:
    plan = adapter.plan(loaded.shape, options)
    return plan, adapter.process(loaded, plan, options)


def _said(shape: MediaShape) -> str:
    return f"{shape.size} {dict(shape.facts)}" if shape.facts else str(shape.size)


def _key(adapter: MediaAdapter, options: Options, salt: str = "") -> bytes:
    return item_key(
        salt=salt, adapter=adapter, io_options={}, processor_options=options, content=b"same"
    )


def _encode(encoder: Encoder, items: Sequence[Features]) -> list[EncoderOutput]:
    import torch

    with torch.inference_mode():
        outputs = list(encoder(items))
    assert len(outputs) == len(items), f"{len(outputs)} outputs came of {len(items)} items"
    return outputs


def _encode_pieces(
    encoder: Encoder, item: Features, num_pieces: int, what: str
) -> list[EncoderOutput]:
    import torch

    method = getattr(encoder, "encode_piece", None)
    assert method is not None, f"{what}: the encoder has no encode_piece"
    with torch.inference_mode():
        pieces = [method(item, piece, num_pieces) for piece in range(num_pieces)]
    assert all(len(piece.embeds) for piece in pieces), f"{what}: a piece has no rows"
    return pieces


def _check_output(output: EncoderOutput, hidden_size: int) -> None:
    shape = tuple(output.embeds.shape)
    assert len(shape) == 2, f"an embedding has the shape {shape}; it must be (tokens, hidden)"
    assert shape[1] == hidden_size, f"a row has {shape[1]} numbers; the decoder has {hidden_size}"
    assert bool(output.embeds.isfinite().all()), "an embedding holds values that aren't finite"
    if output.deep is not None:
        assert tuple(output.deep.shape[1:]) == shape, "levels must be (levels, tokens, hidden)"


def _refuses_embeds(
    adapter: MediaAdapter,
    num_rows: int,
    fields: Mapping[str, torch.Tensor],
    options: Options,
    what: str,
) -> None:
    try:
        adapter.plan_embeds(num_rows, fields, options)
    except RequestError:
        return
    except Exception as error:
        raise AssertionError(
            f"plan_embeds raised {type(error).__name__} at {what}; it must be a RequestError"
        ) from error
    raise AssertionError(f"plan_embeds took {what}, which fit no item")
