"""A scent is the readings of eight sensors; a model takes it as two tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sensorium.errors import MediaError
from sensorium.media.digest import Digest
from sensorium.plugins import (
    EncoderOutput,
    EncoderSpec,
    MediaAdapter,
    MediaKind,
    Placeholder,
    WeightMap,
    WeightRule,
)
from sensorium.types import Loaded, MediaItem, MediaPlan, MediaShape, Probe, ValueSource

NUM_SENSORS, NUM_TOKENS = 8, 2


class Scent(MediaKind):
    name = "scent"
    part_types = offline_part_types = ("scent",)

    def split(self, value):
        scents = value if isinstance(value, list) else [value]
        return [replace(self.parse_part("scent", s), index=i) for i, s in enumerate(scents)]

    def parse_part(self, part_type, value):
        return MediaItem("scent", 0, () if value is None else (ValueSource(value),))

    def probe(self, sources):
        return Probe(self.load(sources).shape, 4 * NUM_SENSORS)

    def load(self, sources):
        readings = np.asarray(sources[0].value)
        if readings.shape != (NUM_SENSORS,) or readings.dtype.kind not in "fiu":
            raise MediaError(f"a scent is {NUM_SENSORS} numbers, one for each sensor.")
        return Loaded(readings.astype(np.float32), MediaShape(readings.shape))

    def digest(self, sources):
        return Digest("scent").add(self.load(sources).value).digest()


class Nose(torch.nn.Module):
    """Readings (sensors,) → embeddings (tokens, hidden)."""

    def __init__(self, context):
        super().__init__()
        self.project = torch.nn.Linear(NUM_SENSORS, NUM_TOKENS * context.decoder.hidden_size)

    def forward(self, items):
        rows = [self.project(item["readings"].to(self.project.weight)) for item in items]
        return [EncoderOutput(row.view(NUM_TOKENS, -1)) for row in rows]


NOSE = EncoderSpec(
    name="nose",
    build=Nose,
    weights=WeightMap((WeightRule(r"(project\.(?:weight|bias))", r"\1"),)),
    source=lambda context: str(Path(__file__).with_name("nose.safetensors")),
)


class ScentAdapter(MediaAdapter):
    kind = "scent"
    architectures = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen2_5_VLForConditionalGeneration")
    encoders = ("nose",)
    own_encoders = (NOSE,)

    def placeholder(self, index):
        return Placeholder(text="<scent>", token_ids=(), in_context="<scent>")

    def plan(self, shape, options):
        return MediaPlan(num_tokens=NUM_TOKENS, token_ids=(0,) * NUM_TOKENS)

    def process(self, loaded, plan, options):
        return {"nose": {"readings": torch.from_numpy(loaded.value)}}

    def worst_case(self, options, io_options):
        return MediaShape((NUM_SENSORS,))
