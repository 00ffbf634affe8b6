"""Strangers' plugins keep the contracts: the foreign kind, a family of two kinds interleaved."""

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from family_helpers import open_folder
from safetensors.torch import save_file
from scents import DISTRIBUTION, MODULE, SOURCE
from tiny_checkpoints import make_qwen2

from sensorium.models.load import load_encoder
from sensorium.plugins import (
    Encoder,
    EncoderContext,
    MediaAdapter,
    MediaKind,
    ModelContext,
)
from sensorium.testing import model_context
from sensorium.testing.adapter import MediaAdapterContract
from sensorium.testing.family import ModelFamilyContract
from sensorium.testing.kind import MediaKindContract
from sensorium.testing.serving import ServingContract

PLAYS = Path(__file__).with_name("plays")
_TEMPORARY = tempfile.TemporaryDirectory()
FOLDER = make_qwen2(Path(_TEMPORARY.name) / "qwen2", seed=8)


def weights() -> Path:
    """The readers' weights, both in one file."""
    file = Path(_TEMPORARY.name) / "readers.safetensors"
    if not file.exists():
        draw = torch.Generator().manual_seed(2)
        shapes = {"acts": (64, 6), "beats": (64, 3)}
        tensors = {f"{n}.weight": torch.randn(s, generator=draw) for n, s in shapes.items()}
        tensors |= {f"{n}.bias": torch.randn(64, generator=draw) for n in shapes}
        save_file(tensors, file)
    return file


def context() -> ModelContext:
    return model_context(hidden_size=64, architecture="Qwen2ForCausalLM")


def encoders(adapter: MediaAdapter, options: Mapping[str, Any]) -> Mapping[str, Encoder]:
    checkpoint = open_folder(FOLDER)
    given = EncoderContext(
        architecture="Qwen2ForCausalLM",
        config=checkpoint.config,
        processor={},
        decoder=adapter.context.decoder,
        dtype=torch.float32,
        device=torch.device("cpu"),
        plugin_options=options,
    )
    return {spec.name: load_encoder(spec, given, checkpoint) for spec in adapter.own_encoders}


@pytest.fixture(scope="module", autouse=True)
def plugins(installed: Any) -> Iterator[None]:
    with installed(DISTRIBUTION, SOURCE, MODULE), installed("plays", PLAYS, "plays_plugin"):
        yield


def array(rows: int, columns: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 1, (rows, columns)).astype(np.float32)


# --- the foreign kind -------------------------------------------------------------------


class TestScent(MediaKindContract):
    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        from scent_for_sensorium.scent import Scent

        kind: MediaKind = Scent(options)
        return kind

    def values(self) -> Sequence[Any]:
        return [array(1, 8, seed)[0] for seed in range(3)]

    def changed(self) -> Iterable[tuple[Any, Any]]:
        one = array(1, 8, 0)[0]
        other = one.copy()
        other[7] = np.nextafter(other[7], 9, dtype=np.float32)
        yield one, other

    def hostile(self) -> Iterable[Any]:
        return [np.zeros(7), np.zeros((8, 1)), np.array(["rose"] * 8), "roses", 5]

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        return [("scent", scent.tolist(), scent) for scent in self.values()]


class TestScentServed(ServingContract):
    def prompts(self) -> Sequence[Any]:
        one, other = (array(1, 8, seed)[0] for seed in range(2))
        return [
            {"prompt": "It smells of <scent>.", "multi_modal_data": {"scent": one}},
            {"prompt": "<scent>, <scent>", "multi_modal_data": {"scent": [one, other]}},
            "Words only.",
        ]


class TestScentServedByQwen(TestScentServed):
    architecture, hidden_size = "Qwen2ForCausalLM", 32


class TestScentAdapter(MediaAdapterContract):
    def make_kind(self) -> MediaKind:
        from scent_for_sensorium.scent import Scent

        kind: MediaKind = Scent({})
        return kind

    def make_adapter(self) -> MediaAdapter:
        from scent_for_sensorium.scent import ScentAdapter

        adapter: MediaAdapter = ScentAdapter(context())
        return adapter

    def make_encoders(self) -> Mapping[str, Encoder]:
        return encoders(self.make_adapter(), {})

    def values(self) -> Sequence[Any]:
        return [array(1, 8, seed)[0] for seed in range(4)]


class TestScentInQwen2(ModelFamilyContract):
    def make_checkpoint(self, folder: Path) -> Path:
        return FOLDER

    def prompts(self) -> Sequence[Any]:
        one, two = (array(1, 8, seed)[0] for seed in range(2))
        return [
            "nothing in the air",
            {"prompt": "it smells of <scent>, no?", "multi_modal_data": {"scent": one}},
            {"prompt": "<scent> or <scent>", "multi_modal_data": {"scent": [one, two]}},
        ]


# --- a family of two kinds --------------------------------------------------------------


class TestPlay(MediaKindContract):
    name: ClassVar[str] = "Play"
    columns: ClassVar[int] = 6

    def make_kind(self, options: Mapping[str, Any]) -> MediaKind:
        import plays_plugin

        kind: MediaKind = getattr(plays_plugin, self.name)(options)
        return kind

    def values(self) -> Sequence[Any]:
        return [array(rows, self.columns, rows) for rows in (1, 4, 9)]

    def changed(self) -> Iterable[tuple[Any, Any]]:
        one = array(4, self.columns, 0)
        other = one.copy()
        other[3, 2] += 1e-3
        yield one, other

    def lookalikes(self) -> Iterable[tuple[Any, Any]]:
        numbers = np.arange(2 * self.columns, dtype=np.int32).reshape(2, -1)
        yield numbers, numbers.view(np.float32)

    def hostile(self) -> Iterable[Any]:
        yield np.zeros((3, 5 + self.columns))
        yield np.zeros((0, self.columns))
        yield np.full((2, self.columns), np.nan)
        yield "Hamlet"

    def parts(self) -> Sequence[tuple[str, Any, Any]]:
        return [
            (part_type, one, one) for part_type in self.kind.part_types for one in self.values()
        ]


class TestScore(TestPlay):
    name, columns = "Score", 3


class TestPlayAdapter(MediaAdapterContract):
    name: ClassVar[str] = "Play"
    columns: ClassVar[int] = 6

    def make_kind(self) -> MediaKind:
        import plays_plugin

        kind: MediaKind = getattr(plays_plugin, self.name)({})
        return kind

    def make_adapter(self) -> MediaAdapter:
        import plays_plugin

        adapter: MediaAdapter = getattr(plays_plugin, f"{self.name}Adapter")(context())
        return adapter

    def make_encoders(self) -> Mapping[str, Encoder]:
        return encoders(self.make_adapter(), {"weights": weights()})

    def values(self) -> Sequence[Any]:
        return [array(rows, self.columns, rows) for rows in (1, 4, 9)]

    def option_settings(self) -> Sequence[Mapping[str, Any]]:
        return [{}, {"gain": 0.5}] if self.name == "Play" else [{}]


class TestScoreAdapter(TestPlayAdapter):
    name, columns = "Score", 3


class TestPlayFamily(ModelFamilyContract):
    def make_checkpoint(self, folder: Path) -> Path:
        return FOLDER

    def prompts(self) -> Sequence[Any]:
        plays = [array(rows, 6, rows) for rows in (2, 5)]
        return [
            "the rest is silence",
            {"prompt": "I saw <play> and", "multi_modal_data": {"play": plays[0]}},
            {"prompt": "<play> or <play>", "multi_modal_data": {"play": plays}},
        ]

    def engine_options(self) -> Mapping[str, Any]:
        return {
            "hf_overrides": {"architectures": ["PlayForCausalLM"]},
            "plugin_options": {"plays": {"weights": str(weights())}},
            "max_num_batched_tokens": 7,
            "max_num_seqs": 4,
        }


def test_the_documents_example_is_a_contract_that_passes(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "testing-plugins.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)  # the page's own code
    contract = names["TestScent"]()
    checks = [name for name in dir(contract) if name.startswith("test_")]
    ran = 0
    for name in checks:
        with suppress(pytest.skip.Exception):  # a check for which the page gives no values
            getattr(contract, name)()
            ran += 1
    assert ran > 10


def test_the_plugin_of_pytest_imports_nothing_heavy() -> None:
    code = (
        "import sys, sensorium.testing.pytest_plugin\n"
        "heavy = {'torch', 'numpy', 'transformers', 'PIL', 'safetensors', 'tokenizers'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
