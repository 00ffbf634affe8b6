"""Echo soundings for text models: depths along a line, a token for every few pings.

A file is the four letters SND1 and the depths in metres, float32, little-endian.
"""

from dataclasses import replace

import numpy as np
import torch

from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.media.digest import Digest
from sensorium.plugins import (
    EncoderOutput,
    EncoderSpec,
    MediaAdapter,
    MediaKind,
    Placeholder,
    WeightMap,
    hookimpl,
)
from sensorium.types import (
    BytesSource,
    GivenEmbeds,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    Probe,
    UrlSource,
    ValueSource,
)

api = 2
MAGIC, LONGEST = b"SND1", 4096
FORMS = "an array of depths, the bytes of a file, a URL, embeddings, or a list of these and None"


class Sounding(MediaKind):
    name = "sounding"
    part_types = ("sounding_url", "sounding")
    offline_part_types = ("sounding",)  # an array can't be sent as JSON
    media_types = ("application/x-sounding",)
    size_names = ("pings",)
    fact_names = ("deepest",)
    default_limit = 4
    max_decoded_bytes = 4 * LONGEST

    def __init__(self, options):
        self.metres = options.get("metres", 1.0)  # what one unit of a file's numbers is
        if unknown := [name for name in options if name != "metres"]:
            raise ConfigError(f"media_io_kwargs['sounding'] has {unknown[0]!r}; allowed is metres.")
        if not isinstance(self.metres, (int, float)) or not self.metres > 0:
            raise ConfigError(f"metres is {self.metres!r}; it must be a number above 0.")

    def options_key(self):
        return {"metres": float(self.metres)}  # it changes what load returns

    def split(self, value):
        values = value if isinstance(value, (list, tuple)) else [value]
        return [replace(self._item(one), index=i) for i, one in enumerate(values)]

    def parse_part(self, part_type, value):
        if isinstance(value, dict) and part_type == "sounding_url":
            value = value.get("url")  # {"url": …}, as other interfaces write it
        return self._item(value)

    def _item(self, value):
        if value is None:  # a uuid stands for it
            return MediaItem("sounding", 0)
        if isinstance(value, dict) and list(value) == ["sounding_embeds"]:
            return MediaItem("sounding", 0, embeds=GivenEmbeds(value["sounding_embeds"]))
        if isinstance(value, str):
            return MediaItem("sounding", 0, (UrlSource(value),))
        if isinstance(value, bytes):
            return MediaItem("sounding", 0, (BytesSource(value),))
        if isinstance(value, np.ndarray):
            return MediaItem("sounding", 0, (ValueSource(value),))
        raise MediaError(f"a sounding is a {type(value).__name__}; allowed are {FORMS}.")

    def probe(self, sources):
        num_pings = len(self._depths(sources))
        if not 0 < num_pings <= LONGEST:
            raise MediaError(f"it has {num_pings} pings; 1 to {LONGEST} are allowed.")
        return Probe(MediaShape((num_pings,)), 4 * num_pings)

    def load(self, sources):
        depths = self._depths(sources).astype(np.float32) * np.float32(self.metres)
        if not np.isfinite(depths).all():
            raise MediaError("a sounding's depths are finite numbers.")
        return Loaded(depths, MediaShape(depths.shape, {"deepest": float(depths.max())}))

    def digest(self, sources):
        (source,) = sources
        if isinstance(source, BytesSource):
            return Digest("sounding file").add(source.data).digest()
        return Digest("sounding").add(self._depths(sources)).digest()

    def blank(self, shape):
        return Loaded(np.zeros(shape.size, np.float32), shape)

    def _depths(self, sources):
        (source,) = sources  # core has fetched URLs
        if isinstance(source, ValueSource):
            depths = np.asarray(source.value)
        else:
            depths = np.frombuffer(source.data[4 : len(source.data) // 4 * 4], "<f4")
            if not source.data.startswith(MAGIC) or len(source.data) % 4:
                raise MediaError("it is no whole sounding: SND1, then float32 numbers.")
        if depths.ndim != 1 or depths.dtype.kind not in "fiu":
            raise MediaError("a sounding is a row of numbers.")
        return depths


class Sonar(torch.nn.Module):
    """Depths (tokens, stride) → embeddings (tokens, hidden); it needs no weights."""

    def __init__(self, context):
        super().__init__()
        rates = torch.linspace(0.01, 1, context.decoder.hidden_size)
        self.register_buffer("rates", rates, persistent=False)  # nothing in a file fills it
        self.dtype, self.device = context.dtype, context.device

    def forward(self, items):
        depths = [item["depths"].to(self.device).mean(dim=1, keepdim=True) for item in items]
        return [EncoderOutput(torch.sin(d * self.rates.float()).to(self.dtype)) for d in depths]


class SoundingAdapter(MediaAdapter):
    kind = "sounding"
    architectures = ("LlamaForCausalLM", "Qwen2ForCausalLM")
    encoders = ("sonar",)
    own_encoders = (EncoderSpec("sonar", Sonar, WeightMap(())),)
    option_names = frozenset({"stride"})

    def __init__(self, context):
        super().__init__(context)
        # Ordinary tokens that spell the placeholder, so that a prompt may be given as ids.
        self._ids = tuple(context.tokenizer.encode("<sounding>"))

    def placeholder(self, index):
        return Placeholder("<sounding>", self._ids, "<sounding>")

    def options(self, kwargs):
        stride = kwargs.get("stride", 8)  # pings to a token
        if not isinstance(stride, int) or not 1 <= stride <= 64:
            raise RequestError(f"stride is {stride!r}; it must be an integer from 1 to 64.")
        return {"stride": stride}

    def plan(self, shape, options):
        return self._plan(-(-shape.size[0] // options["stride"]))

    def plan_embeds(self, num_rows, fields, options):
        if num_rows > LONGEST:
            raise RequestError(f"it has {num_rows} rows; a sounding has at most {LONGEST}.")
        return self._plan(num_rows)

    def _plan(self, num_tokens):
        return MediaPlan(num_tokens, (self._ids[0],) * num_tokens)

    def process(self, loaded, plan, options):
        missing = plan.num_tokens * options["stride"] - len(loaded.value)
        padded = np.pad(loaded.value, (0, missing), mode="edge")
        return {"sonar": {"depths": torch.from_numpy(padded).view(plan.num_tokens, -1)}}

    def worst_case(self, options, io_options):
        return MediaShape((LONGEST,), {"deepest": 0.0})


@hookimpl
def sensorium_media_kinds():
    return [Sounding]


@hookimpl
def sensorium_media_adapters():
    return [SoundingAdapter]
