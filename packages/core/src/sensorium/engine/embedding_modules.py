"""Reads ``modules.json``, and refuses what an engine that embeds doesn't implement.

sentence-transformers writes that file: a list of modules that follow one another, such as
transformer, pooling and normalisation, with a folder for each one's own config.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sensorium.checkpoint import Checkpoint, read_json
from sensorium.errors import ConfigError

_MODULES = "modules.json"
#: Built: the decoder, the last token's state, and its normalisation, which the caller chooses.
_BUILT = ("Transformer", "Pooling", "Normalize")
_LAST_TOKEN = "lasttoken"


def check_modules(checkpoint: Checkpoint) -> None:
    """Refuses a checkpoint whose vectors wouldn't be what its files say.

    Raises:
        ConfigError: it doesn't pool by the last token, or has further layers.
    """
    for kind, folder in _modules(checkpoint):
        if kind not in _BUILT:
            raise ConfigError(
                f"{checkpoint.name} has a module {kind} ({_MODULES}); built for embedding are "
                f"{', '.join(_BUILT)}."
            )
        if kind == "Pooling":
            modes = _pooling_modes(read_json(checkpoint.folder / folder / "config.json") or {})
            if modes != [_LAST_TOKEN]:
                raise ConfigError(
                    f"{checkpoint.name} pools by {' and '.join(modes)} ({folder}/config.json); "
                    f"built is {_LAST_TOKEN}, the last token's state."
                )


def _modules(checkpoint: Checkpoint) -> Iterator[tuple[str, str]]:
    """The name of each module's class, and its folder."""
    file = checkpoint.folder / _MODULES
    try:
        modules = json.loads(file.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} can't be read ({type(error).__name__}).") from error
    if not isinstance(modules, list):
        raise ConfigError(f"{file} holds a {type(modules).__name__}; it must hold a list.")
    for module in modules:
        if not isinstance(module, Mapping) or not isinstance(module.get("type"), str):
            raise ConfigError(f"{file} has the module {module!r}, which has no type.")
        folder = module.get("path") or ""
        if not isinstance(folder, str) or Path(folder).name != folder:
            raise ConfigError(f"{file} has the path {folder!r}; it must be a folder beside it.")
        yield module["type"].rpartition(".")[2], folder


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """The modes by the names that the newer spelling has; the mean where the file says nothing."""
    named = config.get("pooling_mode")
    if named is not None:
        return [str(name) for name in named] if isinstance(named, list) else [str(named)]
    modes = [
        key.removeprefix("pooling_mode_").removesuffix("_token").removesuffix("_tokens")
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    ]
    return modes or ["mean"]
