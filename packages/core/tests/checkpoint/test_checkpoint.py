"""Finding a checkpoint, reading its JSON files, and telling complete weights from broken ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors as hub_errors
from safetensors.torch import save_file

from sensorium.checkpoint import Checkpoint, open_checkpoint, resolve_folder, weight_files
from sensorium.config import EngineConfig
from sensorium.errors import ConfigError

CONFIG = {"architectures": ["LlamaForCausalLM"], "hidden_size": 8, "rope": {"a": 1, "b": 2}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def opened(folder: Path, **options: Any) -> Checkpoint:
    return open_checkpoint(EngineConfig.from_options(model=folder, **options))


def weights(file: Path) -> Path:
    save_file({"a": torch.zeros(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)}, file)
    return file


# --- JSON files -------------------------------------------------------------------------


def test_what_a_folder_says(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    (folder / "processor_config.json").write_text('{"size": 1, "mean": 2}')
    (folder / "preprocessor_config.json").write_text('{"size": 3}')
    checkpoint = opened(folder)
    assert checkpoint.name == str(folder)
    assert checkpoint.folder == folder
    assert checkpoint.architecture == "LlamaForCausalLM"
    assert checkpoint.config == CONFIG
    assert checkpoint.generation == {"eos_token_id": 2}
    assert checkpoint.processor == {"size": 3, "mean": 2}


def test_the_optional_files_may_be_missing(folder: Path) -> None:
    checkpoint = opened(folder)
    assert checkpoint.generation == {}
    assert checkpoint.processor == {}


def test_neutral_values_leave_what_ends_a_text(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 3], "top_p": 0.5}')
    assert opened(folder, generation_config="sensorium").generation == {"eos_token_id": [2, 3]}
    (folder / "generation_config.json").write_text('{"top_p": 0.5}')
    assert opened(folder, generation_config="sensorium").generation == {}


def test_the_generation_config_of_another_folder(folder: Path, tmp_path: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    other = tmp_path / "other"
    other.mkdir()
    for wanted in (str(other), "vllm"):
        with pytest.raises(ConfigError, match=f"generation_config is '{wanted}'; allowed are auto"):
            opened(folder, generation_config=wanted)
    (other / "generation_config.json").write_text('{"eos_token_id": 3}')
    checkpoint = opened(folder, generation_config=str(other))
    assert (checkpoint.generation, checkpoint.generation_of) == ({"eos_token_id": 3}, str(other))


def test_overrides_merge_into_nested_mappings(folder: Path) -> None:
    config = opened(folder, hf_overrides={"rope": {"b": 3}, "hidden_size": 16}).config
    assert config == CONFIG | {"rope": {"a": 1, "b": 3}, "hidden_size": 16}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{not json", "is not valid JSON"),
        ("[1]", "holds a list; it must hold an object"),
        ("\xff".encode("latin-1"), "is not valid JSON"),
    ],
)
def test_a_broken_config_is_named(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    data = text.encode() if isinstance(text, str) else text
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(ConfigError, match=sentence):
        opened(tmp_path)


def test_a_folder_without_config_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        opened(tmp_path)


@pytest.mark.parametrize("architectures", [None, [], "LlamaForCausalLM", [3]])
def test_a_config_without_architecture_is_told(tmp_path: Path, architectures: object) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": architectures}))
    with pytest.raises(ConfigError, match="names no architecture"):
        _ = opened(tmp_path).architecture


@pytest.mark.parametrize(
    ("entry", "method"),
    [({"quant_method": "awq", "bits": 4}, "awq"), ({"bits": 4}, "an unnamed"), (8, "an unnamed")],
)
def test_quantized_checkpoints_are_refused_by_method(
    folder: Path, entry: object, method: str
) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"quantization_config": entry}))
    with pytest.raises(ConfigError, match=rf"is quantized \({method}"):
        opened(folder)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        opened(folder / "config.json")


@pytest.mark.parametrize("name", ["/no/such/folder", "./nowhere", "a/b/c", "~/no-such-folder"])
def test_a_missing_folder_is_told(name: str) -> None:
    with pytest.raises(ConfigError, match="There is no folder"):
        resolve_folder(name)


# --- weight files -----------------------------------------------------------------------


def test_one_file(folder: Path) -> None:
    file = weights(folder / "model.safetensors")
    assert opened(folder).weight_files() == [file]
    assert weight_files(file, "x") == [file]


def test_shards_come_from_the_index(folder: Path) -> None:
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    files = [weights(folder / name) for name in names]
    weights(folder / "model-unrelated.safetensors")
    index = {"weight_map": {"a": names[1], "b": names[0], "c": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert opened(folder).weight_files() == files
    files[1].unlink()
    with pytest.raises(ConfigError, match=f"1 of them are missing, {names[1]} first"):
        opened(folder).weight_files()


@pytest.mark.parametrize(
    ("index", "sentence"),
    [({}, "has no weight_map"), ({"weight_map": {"a": "../x.safetensors"}}, "is no file name")],
)
def test_a_broken_index_is_told(folder: Path, index: object, sentence: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=sentence):
        opened(folder).weight_files()


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], "has no weights"),
        (["pytorch_model.bin"], "only safetensors files are supported"),
        (["consolidated.00.pth"], "only safetensors files are supported"),
        (["model-00001-of-00002.safetensors"], r"no model\.safetensors\.index\.json"),
    ],
)
def test_a_folder_without_usable_weights_is_told(
    folder: Path, files: list[str], sentence: str
) -> None:
    for name in files:
        (folder / name).write_bytes(b"")
    with pytest.raises(ConfigError, match=sentence):
        opened(folder).weight_files()


@pytest.mark.parametrize("kept", [0, 5, 8, 40, -1, -50])
def test_a_truncated_file_is_told(folder: Path, kept: int) -> None:
    file = weights(folder / "model.safetensors")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"model\.safetensors of .* is incomplete"):
        opened(folder).weight_files()


def test_a_pointer_instead_of_weights_is_told(folder: Path) -> None:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    (folder / "model.safetensors").write_text(text)
    with pytest.raises(ConfigError, match="Git LFS pointer"):
        opened(folder).weight_files()


def test_a_file_of_another_format_is_told(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((4).to_bytes(8, "little") + b"\x80PK\x03" * 9)
    with pytest.raises(ConfigError, match="is no safetensors file"):
        opened(folder).weight_files()


# --- hub names --------------------------------------------------------------------------


def test_a_hub_name_is_downloaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def snapshot_download(name: str, **options: Any) -> str:
        calls.append((name, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    options = {"revision": "v2", "download_dir": "/models"}
    checkpoint = open_checkpoint(EngineConfig.from_options(model="org/model", **options))
    assert (checkpoint.name, checkpoint.folder) == ("org/model", folder)
    open_checkpoint(EngineConfig.from_options(model="org/model", load_format="dummy"))
    (name, first), (_, dummy) = calls
    assert name == "org/model"
    assert (first["revision"], first["cache_dir"]) == ("v2", "/models")
    assert "*.safetensors" in first["allow_patterns"]
    assert {"*.json", "*.jinja"} <= set(first["allow_patterns"])
    assert "*.bin" not in first["allow_patterns"]
    assert "*.safetensors" not in dummy["allow_patterns"]


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (hub_errors.GatedRepoError, "only approved accounts have org/model"),
        (hub_errors.RepositoryNotFoundError, "neither a folder nor a hub model org/model"),
        (hub_errors.RevisionNotFoundError, "has no revision v2"),
        (hub_errors.LocalEntryNotFoundError, "HF_HUB_OFFLINE is set"),
        (ConnectionResetError, r"could not be downloaded \(ConnectionResetError\)"),
    ],
)
def test_the_hubs_errors_in_our_words(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], sentence: str
) -> None:
    def snapshot_download(name: str, **options: Any) -> str:
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ConfigError, match=sentence):
        resolve_folder("org/model", revision="v2")


def test_offline_and_not_in_the_cache(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither in the cache nor can it be downloaded"):
        resolve_folder("org/no-such-model", download_dir=str(tmp_path))
