"""``Checkpoint``: a checkpoint's folder, JSON files and weight files.

Reads headers and JSON only. Knows nothing of tensors, of names of parameters, or of what a
config means: families read that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensorium.config import EngineConfig
from sensorium.errors import ConfigError

#: What a hub download takes besides the weights: files of the repository's top folder, and of
#: those that ``modules.json`` numbers (``1_Pooling``).
TEXT_PATTERNS = ("*.json", "*.jinja", "*.model", "*.txt")
WEIGHT_PATTERNS = ("*.safetensors",)
#: Other folders, and the original authors' own layout of the same weights, which some repositories
#: hold as well.
IGNORED_PATTERNS = ("[!0-9]*/*", "*/*.safetensors", "consolidated*.safetensors")

GENERATION_FILE = "generation_config.json"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
#: Longest header that the safetensors format allows.
_MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's folder and its JSON files.

    Attributes:
        name: as the user gave it.
        folder: where it lies.
        config: ``config.json`` with ``hf_overrides`` laid over it.
        generation: what is wanted of ``generation_config.json``; {} if there is none.
        processor: ``processor_config.json`` with ``preprocessor_config.json`` laid over it;
            {} if there is neither.
        generation_of: the folder of another ``generation_config.json`` that was asked for; None:
            it is the checkpoint's own.
        other_configs: name → another checkpoint's ``config.json``, as its family asked for it.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    generation: Mapping[str, Any]
    processor: Mapping[str, Any]
    generation_of: str | None = None
    other_configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """The first name of ``architectures``.

        Raises:
            ConfigError: ``config.json`` names none.
        """
        names = self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise ConfigError(
                f"config.json of {self.name} names no architecture; its entry "
                f'"architectures" is {names!r} and should be a list like ["LlamaForCausalLM"].'
            )
        return names[0]

    def weight_files(self) -> list[Path]:
        """The safetensors files, each checked to be complete.

        Raises:
            ConfigError: none, not all, or a truncated one.
        """
        return weight_files(self.folder, self.name)


def open_checkpoint(config: EngineConfig, folder: Path | None = None) -> Checkpoint:
    """Finds (or downloads) ``config.model`` and reads its JSON files.

    Args:
        folder: where the model lies, if that is known already.

    Raises:
        ConfigError: no such model, no or broken ``config.json``, quantized weights, or no
            ``generation_config.json`` where the option names a folder.
    """
    wants_weights = config.load_format != "dummy"
    folder = folder or resolve_folder(
        config.model,
        revision=config.revision,
        download_dir=config.download_dir,
        patterns=TEXT_PATTERNS + (WEIGHT_PATTERNS if wants_weights else ()),
    )
    given = read_json(folder / "config.json")
    if given is None:
        raise ConfigError(
            f"{config.model} has no config.json; a checkpoint's folder holds config.json, "
            "a tokenizer and safetensors files."
        )
    merged = merge(given, config.hf_overrides)
    if quantization := merged.get("quantization_config"):
        named = isinstance(quantization, Mapping) and quantization.get("quant_method")
        method = named or "an unnamed method"
        raise ConfigError(
            f"{config.model} is quantized ({method}: quantization_config in config.json); "
            "only float32, float16 and bfloat16 weights are supported."
        )
    wanted = config.generation_config
    processor = read_json(folder / "processor_config.json") or {}
    preprocessor = read_json(folder / "preprocessor_config.json") or {}
    return Checkpoint(
        name=config.model,
        folder=folder,
        config=merged,
        generation=_read_generation(wanted, folder),
        processor={**processor, **preprocessor},
        generation_of=None if wanted in ("auto", "sensorium") else wanted,
    )


def _read_generation(wanted: str, folder: Path) -> dict[str, Any]:
    """``generation_config.json`` of the checkpoint's folder or of another one.

    Neutral values still leave the ids that end a text: without them, answers of many a chat model
    never end.
    """
    if wanted in ("auto", "sensorium"):
        own = read_json(folder / GENERATION_FILE) or {}
        is_neutral = wanted == "sensorium"
        return {name: own[name] for name in own if name == "eos_token_id" or not is_neutral}
    found = read_json(Path(wanted) / GENERATION_FILE)
    if found is None:
        raise ConfigError(
            f"generation_config is {wanted!r}; allowed are auto, sensorium (neutral values) and a "
            f"folder that holds {GENERATION_FILE}."
        )
    return found


def read_other_config(name: str, download_dir: str | None) -> dict[str, Any]:
    """The ``config.json`` of another checkpoint, a folder or a hub name; nothing else of it.

    Raises:
        ConfigError: no such checkpoint, or it has none.
    """
    folder = resolve_folder(name, download_dir=download_dir, patterns=("config.json",))
    config = read_json(folder / "config.json")
    if config is None:
        raise ConfigError(f"{name} has no config.json.")
    return config


def resolve_folder(
    name: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    patterns: Sequence[str] = TEXT_PATTERNS + WEIGHT_PATTERNS,
) -> Path:
    """The folder of a folder's path or a hub name; missing files are downloaded.

    ``HF_TOKEN``, ``HF_HUB_OFFLINE`` and the hub's other variables count, as its library
    reads them.

    Args:
        name: a folder, or a hub name like "organisation/model".
        revision: branch, tag or commit of a hub name.
        download_dir: where downloads go; None: the hub's cache.
        patterns: which files of a hub repository are needed.

    Raises:
        ConfigError: neither a folder nor a model that can be had.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ConfigError(f"{name} is a file; give the folder that holds the checkpoint.")
    if not _HUB_NAME.fullmatch(name):
        raise ConfigError(f"There is no folder {name}, and it is no hub name either.")
    return _download(name, revision, download_dir, patterns)


def _download(
    name: str, revision: str | None, download_dir: str | None, patterns: Sequence[str]
) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {revision}" if revision else ""
    try:
        folder = huggingface_hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=download_dir,
            allow_patterns=list(patterns),
            ignore_patterns=list(IGNORED_PATTERNS),
        )
    except GatedRepoError as error:
        raise ConfigError(
            f"The hub lets only approved accounts have {name}; ask for access on its page and "
            "set HF_TOKEN."
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"There is neither a folder nor a hub model {name}; "
            "if it is private, set HF_TOKEN to a token that may read it."
        ) from error
    except RevisionNotFoundError as error:
        raise ConfigError(f"The hub model {name} has no revision {revision}.") from error
    except LocalEntryNotFoundError as error:
        raise ConfigError(
            f"There is no folder {name}, and the hub model {name}{at} is neither in the cache "
            "nor can it be downloaded (no connection, or HF_HUB_OFFLINE is set)."
        ) from error
    except Exception as error:  # the library passes on whatever its HTTP client raises
        raise ConfigError(
            f"The hub model {name}{at} could not be downloaded ({type(error).__name__})."
        ) from error
    return Path(folder)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` laid over ``base``; nested mappings are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON file that holds an object; None if there is no such file.

    Raises:
        ConfigError: not JSON, or not an object.
    """
    try:
        text = file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}).") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file} is not valid JSON.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{file} holds a {type(value).__name__}; it must hold an object.")
    return value


def weight_files(folder: Path, name: str) -> list[Path]:
    """The complete safetensors files of a folder, or the one file that ``folder`` is.

    Raises:
        ConfigError: as ``Checkpoint.weight_files``; ``name`` is how it names the checkpoint.
    """
    if folder.is_file():
        files = [folder]
    elif (folder / SINGLE_FILE).exists():
        files = [folder / SINGLE_FILE]
    else:
        files = _indexed_files(folder, name)
    for file in files:
        _check_complete(file, name)
    return files


def _indexed_files(folder: Path, name: str) -> list[Path]:
    index = read_json(folder / INDEX_FILE)
    if index is None:
        raise ConfigError(_no_weights(folder, name))
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"{INDEX_FILE} of {name} has no weight_map.")
    shards = sorted({str(shard) for shard in weight_map.values()})
    for shard in shards:
        if Path(shard).name != shard:
            raise ConfigError(f"{INDEX_FILE} of {name} names {shard!r}, which is no file name.")
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise ConfigError(
            f"{name} is incomplete: {INDEX_FILE} names {len(shards)} files and "
            f"{len(missing)} of them are missing, {missing[0]} first."
        )
    return [folder / shard for shard in shards]


def _no_weights(folder: Path, name: str) -> str:
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        return (
            f"{name} holds its weights as pickled files (.bin or .pth), which can run code when "
            "they are read; only safetensors files are supported. Convert it, or take a revision "
            "that has them."
        )
    if any(folder.glob("model-*-of-*.safetensors")):
        return f"{name} is incomplete: it has weight files, but no {INDEX_FILE}."
    return f"{name} has no weights: neither {SINGLE_FILE} nor {INDEX_FILE} is there."


def _check_complete(file: Path, name: str) -> None:
    """Checks the header of a safetensors file against the file's size.

    The format: 8 bytes of little-endian header length, a JSON header whose entries name each
    tensor's byte range behind the header, and the data.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        head = stream.read(8)
        if head.startswith(b"version "):
            raise ConfigError(
                f"{file.name} of {name} is a Git LFS pointer, not the weights; "
                "fetch them with `git lfs pull`."
            )
        header_bytes = int.from_bytes(head, "little")
        if len(head) < 8 or header_bytes > min(size - 8, _MAX_HEADER_BYTES):
            raise ConfigError(_truncated(file, name))
        try:
            header = json.loads(stream.read(header_bytes))
            ends = [entry["data_offsets"][1] for key, entry in _tensors(header)]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            raise ConfigError(f"{file.name} of {name} is no safetensors file.") from None
    if size < 8 + header_bytes + max(ends, default=0):
        raise ConfigError(_truncated(file, name))


def _tensors(header: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, entry) for key, entry in header.items() if key != "__metadata__"]


def _truncated(file: Path, name: str) -> str:
    return (
        f"{file.name} of {name} is incomplete: the file ends before its last tensor does; "
        "copy or download it again."
    )
