"""``ModelFamilyContract``: the rules for every ``ModelFamily``, tested on a small checkpoint."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sensorium.errors import PluginError
from sensorium.plugins.returns import check_families
from sensorium.testing.media import missing

_SAMPLING: Mapping[str, Any] = {
    "temperature": 0.0,
    "repetition_penalty": 1.0,
    "max_tokens": 4,
    "ignore_eos": True,
}


class ModelFamilyContract:
    """Derive ``class TestMyFamily(ModelFamilyContract)`` and define the first two methods.

    The plugin must be installed (editable will do), since the family is found as users find it.
    """

    # --- what the author says ----------------------------------------------------------

    def make_checkpoint(self, folder: Path) -> Path:
        """Writes a small checkpoint with random weights, tokenizer included; returns its folder."""
        raise missing(self, "make_checkpoint(folder)", "a small checkpoint's folder")

    def prompts(self) -> Sequence[Any]:
        """Prompts of ``generate`` with media: one item, several, different sizes, none."""
        raise missing(self, "prompts()", "prompts with media, as generate takes them")

    def engine_options(self) -> Mapping[str, Any]:
        """Options of ``LLM`` that the plugin needs (``plugin_options``, ``hf_overrides``)."""
        return {}

    def foreign_weights(self) -> Sequence[str]:
        """Names in the checkpoint that neither the family nor its encoders claim."""
        return ()

    # --- what must hold ----------------------------------------------------------------

    def test_the_family_is_one_that_can_be_registered(self, tmp_path: Path) -> None:
        with self._parts(tmp_path) as parts:
            check_families([parts.model.family])
            axes = parts.model.family.position_axes
            sections = parts.model.context.decoder.rope.sections
            assert axes == max(1, len(sections)), (
                f"the family has {axes} position axes, its decoder's rope {len(sections)} sections"
            )

    def test_every_weight_is_claimed_once(self, tmp_path: Path) -> None:
        with self._parts(tmp_path) as parts:
            checkpoint, family = parts.model.checkpoint, parts.model.family
            maps = [family.decoder_weights(checkpoint.config)]
            maps += [s.weight_map(checkpoint.config) for s in family.encoders if s.source is None]
            for name in _weight_names(checkpoint.folder):
                claims = sum(weights.claims(name) for weights in maps)
                expected = 0 if name in self.foreign_weights() else 1
                assert claims == expected, f"{claims} tables claim the weight {name}"

    def test_prompts_are_composed_soundly(self, tmp_path: Path) -> None:
        from sensorium.testing.compositions import check_composition

        with self._parts(tmp_path) as parts:
            family, decoder = parts.model.family, parts.model.context.decoder
            for prompt in self.prompts():
                prepared = parts.prepare(prompt)
                check_composition(
                    prepared.composition,
                    prepared.items,
                    axes=family.position_axes,
                    vocab_size=decoder.vocab_size,
                )

    def test_composing_does_not_depend_on_earlier_prompts(self, tmp_path: Path) -> None:
        import numpy as np

        with self._parts(tmp_path) as parts:
            prompts = list(self.prompts())
            first = [parts.prepare(prompt).composition for prompt in prompts]
            again = [parts.prepare(prompt).composition for prompt in reversed(prompts)][::-1]
            for one, other in zip(first, again, strict=True):
                assert one.token_ids == other.token_ids, "a prompt is composed differently later"
                assert one.spans == other.spans, "a prompt's spans differ later"
                assert one.position_delta == other.position_delta, "a position delta differs later"
                if one.positions is not None:
                    assert other.positions is not None
                    assert np.array_equal(one.positions, other.positions), "positions differ later"

    def test_answers_do_not_depend_on_batch_mates(self, tmp_path: Path) -> None:
        from sensorium.llm import LLM
        from sensorium.sampling_params import SamplingParams

        prompts, sampling = list(self.prompts()), SamplingParams(**_SAMPLING)
        folder = str(self.make_checkpoint(tmp_path))
        options = {"dtype": "float32", "device": "cpu", **self.engine_options()}
        with LLM(folder, **options) as llm:
            together = llm.generate(prompts, sampling, use_tqdm=False)
            alone = [llm.generate(p, sampling, use_tqdm=False)[0] for p in prompts]
            llm.check_integrity()
        for i, (one, other) in enumerate(zip(alone, together, strict=True)):
            assert one.outputs[0].token_ids, f"prompt {i} got no answer"
            assert one.outputs[0].token_ids == other.outputs[0].token_ids, (
                f"prompt {i} is answered differently among others"
            )

    def test_the_answer_depends_on_the_media(self, tmp_path: Path) -> None:
        """Swapping the items of a prompt with several must move its log-probabilities."""
        from sensorium.llm import LLM
        from sensorium.sampling_params import SamplingParams

        swapped = [(p, q) for p in self.prompts() if (q := _swapped(p)) is not None]
        assert swapped, "prompts() has none with two items of one kind"
        sampling = SamplingParams(**_SAMPLING, logprobs=1)
        options = {"dtype": "float32", "device": "cpu", **self.engine_options()}
        with LLM(str(self.make_checkpoint(tmp_path)), **options) as llm:
            for pair in swapped:
                one, other = llm.generate(list(pair), sampling, use_tqdm=False)
                first, second = (o.outputs[0].cumulative_logprob or 0.0 for o in (one, other))
                # Batch mates change a row's sums by rounding, some 1e-6.
                assert abs(first - second) > 1e-4, "the media don't reach the answer"

    # --- helpers -----------------------------------------------------------------------

    @contextmanager
    def _parts(self, folder: Path) -> Iterator[_Parts]:
        parts = _Parts(self.make_checkpoint(folder), self.engine_options())
        try:
            yield parts
        finally:
            parts.frontend.close()


class _Parts:
    """An engine's way in, without the engine."""

    def __init__(self, folder: Path, options: Mapping[str, Any]) -> None:
        from sensorium.config import EngineConfig
        from sensorium.engine.assembly import build_chat, build_frontend
        from sensorium.engine.model import open_model
        from sensorium.media.pipeline import MediaPipeline
        from sensorium.plugins.discovery import discover

        config = EngineConfig.from_options(model=str(folder), **options)
        self.model = open_model(config, discover(choices=config.plugin_choices))
        pipeline = MediaPipeline(
            self.model.kinds,
            self.model.adapters,
            limits={},
            processor_kwargs=config.mm_processor_kwargs,
            cache_bytes=2**28,
            num_threads=2,
            uuids_ignored=False,
        )
        self.frontend = build_frontend(self.model, build_chat(config, self.model), pipeline)

    def prepare(self, prompt: Any) -> Any:
        from sensorium.frontend.prompts import parse_prompt

        try:
            prepared = asyncio.run(self.frontend.prepare(parse_prompt(prompt)))
        except PluginError as error:
            raise AssertionError(str(error)) from error
        prepared.release()
        return prepared


def _weight_names(folder: Path) -> list[str]:
    from safetensors import safe_open

    names: Counter[str] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            names.update(tensors.keys())
    return list(names)


def _swapped(prompt: Any) -> Any:
    """The prompt with its items of one kind the other way round, if it has several."""
    data = prompt.get("multi_modal_data", {}) if isinstance(prompt, Mapping) else {}
    for kind, value in data.items():
        if isinstance(value, list) and len(value) > 1:
            return {**prompt, "multi_modal_data": {**data, kind: value[::-1]}}
    return None
