"""``ServingContract``: an adapter for text models serves, from prompts to answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from sensorium.testing.media import missing
from sensorium.testing.throwaway import write_checkpoint


class ServingContract:
    """Derive ``class TestMyPlugin(ServingContract)`` and define ``prompts``.

    The model is a throwaway text model whose weights, and those of the plugin's encoders, are
    random; the tests check that all parts fit together. The plugin must be installed (editable will
    do), since it is found as users find it.

    Attributes:
        architecture: one of the adapter's ``architectures`` that is a text model of core's.
        hidden_size: of the model, a multiple of 32.
    """

    architecture: ClassVar[str] = "LlamaForCausalLM"
    hidden_size: ClassVar[int] = 64

    def prompts(self) -> Sequence[Any]:
        """Prompts of ``generate`` with items of the plugin's kind: one, several, none."""
        raise missing(self, "prompts()", "prompts with media, as generate takes them")

    def engine_options(self) -> Mapping[str, Any]:
        """Options of ``LLM`` that the plugin needs."""
        return {}

    def test_prompts_are_answered_alone_as_among_others(self, tmp_path: Path) -> None:
        from sensorium.llm import LLM
        from sensorium.sampling_params import SamplingParams

        folder = write_checkpoint(
            tmp_path / "model", hidden_size=self.hidden_size, architecture=self.architecture
        )
        options = {"dtype": "float32", "device": "cpu", "max_model_len": 1024}
        sampling = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
        prompts = list(self.prompts())
        assert prompts, "prompts() gives none"
        with LLM(str(folder), load_format="dummy", **options, **self.engine_options()) as llm:
            together = llm.generate(prompts, sampling, use_tqdm=False)
            for i, prompt in enumerate(prompts):
                (alone,) = llm.generate(prompt, sampling, use_tqdm=False)
                expected = together[i].outputs[0].token_ids
                assert len(expected) == 4, f"prompt {i} got no answer"
                assert alone.outputs[0].token_ids == expected, (
                    f"prompt {i} is answered differently among others"
                )
            llm.check_integrity()
