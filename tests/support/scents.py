"""What the tests know of the foreign distribution in ``tests/plugins/foreign``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

DISTRIBUTION = "scent-for-sensorium"
MODULE = "scent_for_sensorium.plugin"
SOURCE = Path(__file__).resolve().parents[1] / "plugins" / "foreign" / "src"
NUM_TOKENS = 2
ROSE, TAR = np.random.default_rng(1).normal(0, 2, (2, 8)).astype(np.float32)


def embedding(scent: Any) -> torch.Tensor:
    """What the plugin's encoder must return, from its file alone: (tokens, hidden)."""
    weights = load_file(SOURCE / "scent_for_sensorium" / "nose.safetensors")
    rows = weights["project.weight"] @ np.asarray(scent) + weights["project.bias"]
    return torch.from_numpy(rows.reshape(NUM_TOKENS, -1))


def places(token_ids: tuple[int, ...], num_scents: int) -> list[int]:
    """Where scents stand in a prompt: the plugin writes id 0, and no test's text has it."""
    found = [i for i, token in enumerate(token_ids) if token == 0]
    assert len(found) == NUM_TOKENS * num_scents
    return found
