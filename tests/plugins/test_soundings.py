"""The second worked example, as its page prints it: every form, any length, embeddings, ids."""

import base64
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_checkpoints import make_qwen2

from sensorium import LLM, SamplingParams
from sensorium.errors import LimitError, MediaError, RequestError
from sensorium.plugins import Encoder, EncoderContext, MediaAdapter, MediaKind
from sensorium.testing import model_context
from sensorium.testing.adapter import MediaAdapterContract
from sensorium.testing.kind import MediaKindContract
from sensorium.testing.serving import ServingContract
from sensorium.types import Loaded, MediaPlan, MediaShape

FOLDER = Path(__file__).with_name("soundings")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugin-example.md"


@pytest.fixture(scope="module", autouse=True)
def soundings(installed: Any) -> Iterator[None]:
    with installed("soundings", FOLDER, "soundings_plugin"):
        yield
    sys.modules.pop("use_soundings", None)


def data_url(file: bytes) -> str:
    return "data:application/x-sounding;base64," + base64.b64encode(file).decode()


@pytest.mark.parametrize("name", ["soundings_plugin.py", "use_soundings.py"])
def test_the_page_prints_the_code(name: str) -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert f"```python\n{(FOLDER / name).read_text(encoding='utf-8')}```\n" in page


def test_the_page_runs(tmp_path: Path) -> None:
    model = make_qwen2(tmp_path, seed=5)
    outputs = importlib.import_module("use_soundings").answers(str(model), data_url)
    assert all(len(output.outputs[0].token_ids) == 4 for output in outputs)
    value, file, url, two, ids, embeds, coarse = (len(o.prompt_token_ids) for o in outputs)
    assert outputs[0].outputs[0].token_ids == outputs[1].outputs[0].token_ids
    assert outputs[0].outputs[0].token_ids == outputs[2].outputs[0].token_ids
    assert value == file == url == coarse + 5 == embeds + 3
    assert two > 20
    assert ids > 10


def test_limits_options_and_files_are_held(tmp_path: Path) -> None:
    model = make_qwen2(tmp_path, seed=5)
    depths = np.ones(40, np.float32)
    with LLM(model, dtype="float32", max_model_len=256) as llm:

        def refused(error: type[Exception], message: str, value: Any, **more: Any) -> None:
            count = len(value) if isinstance(value, list) else 1
            prompt: Any = {
                "prompt": "<sounding>" * count,
                "multi_modal_data": {"sounding": value},
                **more,
            }
            with pytest.raises(error, match=message):
                llm.generate(prompt, SamplingParams(max_tokens=1), use_tqdm=False)

        refused(LimitError, "has 5 sounding items; limit_mm_per_prompt allows 4", [depths] * 5)
        refused(MediaError, "no whole sounding", b"SND1abc")
        refused(MediaError, "4097 pings", np.ones(4097, np.float32))
        kwargs = {"stride": 0}
        refused(RequestError, "stride is 0", depths, mm_processor_kwargs=kwargs)


def depths(length: int, seed: int) -> Any:
    return np.random.default_rng(seed).uniform(1, 90, length).astype(np.float32)


class TestSounding(MediaKindContract):
    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        kind: MediaKind = importlib.import_module("soundings_plugin").Sounding(options)
        return kind

    def values(self) -> Sequence[Any]:
        return [depths(5, 0), depths(40, 1), depths(40, 2)]

    def changed(self) -> Iterable[tuple[Any, Any]]:
        one, other = depths(9, 0), depths(9, 0)
        other[8] += 0.01
        yield one, other

    def encoded(self) -> Sequence[bytes]:
        return [b"SND1" + depths(1001, 3).tobytes()]

    def loading_options(self) -> Sequence[Mapping[str, Any]]:
        return [{"metres": 0.3048}]

    def hostile(self) -> Iterable[Any]:
        return [np.zeros((2, 2)), np.zeros(5000), np.array(["deep"]), np.full(3, np.nan), b"SND1"]

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        value = depths(5, 0)
        url = data_url(b"SND1" + value.tobytes())
        return [("sounding", value, value), ("sounding_url", {"url": url}, url)]

    def test_files_that_are_cut_off_are_refused(self) -> None:
        """A file that is cut between two numbers is a shorter file: the format has no length."""
        for cut in (2, 7, 4001):
            self._refused(self.kind, self.encoded()[0][:cut], f"a file cut at {cut}")


class TestSoundingAdapter(MediaAdapterContract):
    def make_kind(self) -> MediaKind:
        kind: MediaKind = importlib.import_module("soundings_plugin").Sounding({})
        return kind

    def make_adapter(self) -> MediaAdapter:
        adapter = importlib.import_module("soundings_plugin").SoundingAdapter
        made: MediaAdapter = adapter(model_context(hidden_size=64))
        return made

    def make_encoders(self) -> Mapping[str, Encoder]:
        context = model_context(hidden_size=64)
        given = EncoderContext(
            architecture=context.architecture,
            config=context.config,
            processor={},
            decoder=context.decoder,
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        return {"sonar": importlib.import_module("soundings_plugin").Sonar(given)}

    def values(self) -> Sequence[Any]:
        return [depths(5, 0), depths(40, 1)]

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [{}, {"stride": 3}]

    def shapes(self) -> Sequence[MediaShape]:
        return [MediaShape((n,), {"deepest": 1.0}) for n in (1, 7, 8, 9, 4096)]

    def embeds_fields_of(self, loaded: Loaded, plan: MediaPlan) -> Mapping[str, torch.Tensor]:
        return {}

    def refused_rows(self, plan: MediaPlan) -> Sequence[int]:
        return [4097, 10**9]


class TestSoundingsServed(ServingContract):
    def prompts(self) -> Sequence[Any]:
        one, other = depths(5, 0), depths(40, 1)
        return [
            {"prompt": "It is <sounding>.", "multi_modal_data": {"sounding": one}},
            {"prompt": "<sounding>, <sounding>", "multi_modal_data": {"sounding": [one, other]}},
            "Words only.",
        ]
