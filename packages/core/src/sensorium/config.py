"""``EngineConfig``: the engine's options, each checked and none ignored.

``EngineConfig.from_options`` takes the keyword arguments of ``LLM`` and ``AsyncEngine``.
What an option's value means for a model (the dtype "auto", the context's length) is decided
where the checkpoint is read, not here.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sensorium.errors import ConfigError

DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
LOAD_FORMATS = ("auto", "safetensors", "dummy")
GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """All options. Those marked † are Sensorium's own; the others are named as in vLLM.

    Args:
        model: a folder or a hub name.
        tokenizer: a folder or a hub name; None: the model's.
        trust_remote_code: accepted because launch scripts pass it; no remote code is ever
            run, and none is needed.
        revision, download_dir: for hub names.
        hf_overrides: laid over the checkpoint's ``config.json``, nested mappings merged.
        dtype: "auto" is the checkpoint's own (float32 for a float16 one on the CPU).
        device †: "auto", "cpu", "cuda" or "cuda:N".
        engine_process †: True: the engine is a process of its own; False: a thread of this one;
            None: a process on an accelerator, a thread on the CPU.
        load_format: "dummy" draws random weights from ``seed``.
        seed: of sampling without a seed of its own, and of dummy weights.
        max_model_len: context in tokens; None: what the checkpoint was made for, or as much of
            it as the KV cache holds.
        gpu_memory_utilization: fraction of an accelerator's memory that this engine may take,
            whatever others beside it hold, but at most 19/20 of what they leave; on the CPU
            ``kv_cache_memory_bytes`` counts instead.
        kv_cache_memory_bytes: size of the KV cache; None: what the fraction leaves (on the
            CPU: room for ``max_num_seqs`` contexts, at most 4 GiB and a quarter of memory).
        page_size †: tokens of one KV page.
        enforce_eager: never capture device graphs; decode is then launched kernel by kernel.
        structured_outputs_forcing †: tokens that a grammar leaves no choice of are computed
            together, not sampled one by one.
        max_logprobs: log-probabilities at one place that a request may ask for; -1: of the whole
            vocabulary.
        enable_prefix_caching: keep finished prompts' pages for later ones.
        enable_chunked_prefill: False: a prompt is prefilled in one step.
        max_num_batched_tokens: tokens computed in one step at most.
        max_num_seqs: sequences running at once at most.
        max_queued_requests †: requests that may be prepared or wait beside ``max_num_seqs`` others;
            one more is refused with ``OverloadedError``. None: any number. ``LLM`` refuses the
            option: its calls wait for each other.
        mm_processor_cache_gb: processed media kept in host memory (GiB); 0 turns it off.
        mm_encoder_cache_gb †: embeddings kept on the device (GiB).
        max_encode_pieces_per_step †: pieces of items encoded in one step at most while any
            sequence decodes; an item that its adapter doesn't divide is one piece.
        limit_mm_per_prompt: kind → items in one prompt at most, or a mapping with "count"
            and the sizes that memory profiling should assume.
        media_io_kwargs: kind → how its media are read.
        mm_processor_kwargs: laid over the checkpoint's processor options.
        media_threads †: threads that prepare media; None: by cores.
        allowed_local_media_path: the absolute path of a folder; ``file:`` URLs, and absolute paths
            in a URL's place, may name files below it. None: no local files by URL.
        allowed_media_domains: the only hosts that ``http(s)`` URLs may name; ``*.example.org``
            stands for every host below example.org. None: every host.
        allow_private_media_hosts †: which addresses that aren't public may be fetched from: True
            for all, or a list of hosts ("media.internal", "*.internal") and networks
            ("10.1.0.0/16").
        media_url_allow_redirects †: whether redirects are followed (each hop is checked); None:
            ``SENSORIUM_MEDIA_URL_ALLOW_REDIRECTS``, or yes.
        media_url_use_proxies †: fetch through the proxies that the environment names. A proxy
            resolves names itself: that they are public can't be checked then.
        media_memory_gb †: host memory (GiB) for media being fetched and decoded and for the
            features of unfinished requests; None: a quarter of the machine's, at least 1.
        interleave_mm_strings: chat text may carry placeholders by hand.
        chat_template: the name of one of the family's, a path, or a template;
            chat_template_content_format: "auto", "openai" or "string".
        generation_config: "auto" reads the checkpoint's ``generation_config.json``, "sensorium"
            takes nothing from it but the ids that end a text; else the folder whose
            ``generation_config.json`` is read.
        task: "generate" or "embed"; runner: "generate" or "pooling", the same by its other name.
            "auto": the model's own task.
        tensor_parallel_size: only 1 is built. plugin_options †: distribution → options of its
            plugin. plugin_choices †: claim ("kind:NAME", "family:ARCHITECTURE",
            "adapter:ARCHITECTURE/KIND", "encoder:ARCHITECTURE/NAME") → the distribution
            that serves it where two do.
        disabled_plugins †: distributions, or single plugins ("distribution:name"), that are not
            loaded, beside those in ``SENSORIUM_DISABLED_PLUGINS``.
    """

    model: str
    tokenizer: str | None = None
    trust_remote_code: bool = False
    revision: str | None = None
    download_dir: str | None = None
    hf_overrides: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device: str = "auto"
    engine_process: bool | None = None
    load_format: str = "auto"
    seed: int = 0
    max_model_len: int | None = None
    gpu_memory_utilization: float = 0.9
    kv_cache_memory_bytes: int | None = None
    page_size: int = 16
    enforce_eager: bool = False
    max_logprobs: int = 20
    structured_outputs_forcing: bool = True
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    max_num_batched_tokens: int = 2048
    max_num_seqs: int = 64
    max_queued_requests: int | None = None
    mm_processor_cache_gb: float = 4.0
    mm_encoder_cache_gb: float = 1.0
    max_encode_pieces_per_step: int = 8
    limit_mm_per_prompt: Mapping[str, int | Mapping[str, int | float]] = field(default_factory=dict)
    media_io_kwargs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mm_processor_kwargs: Mapping[str, Any] = field(default_factory=dict)
    media_threads: int | None = None
    allowed_local_media_path: str | None = None
    allowed_media_domains: Sequence[str] | None = None
    allow_private_media_hosts: bool | Sequence[str] = False
    media_url_allow_redirects: bool | None = None
    media_url_use_proxies: bool = False
    media_memory_gb: float | None = None
    interleave_mm_strings: bool = False
    chat_template: str | None = None
    chat_template_content_format: str = "auto"
    generation_config: str = "auto"
    task: str = "auto"
    runner: str = "auto"
    tensor_parallel_size: int = 1
    plugin_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    plugin_choices: Mapping[str, str] = field(default_factory=dict)
    disabled_plugins: tuple[str, ...] = ()

    @classmethod
    def from_options(cls, **options: Any) -> EngineConfig:
        """Builds it from keyword arguments.

        Raises:
            ConfigError: an option that doesn't exist (with the nearest that does), a value
                out of range, or a documented option that isn't built yet.
        """
        known = [f.name for f in fields(cls)]
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]}?" if near else ""
                raise ConfigError(f"There is no option {name}.{hint}")
        given = {name: value for name, value in options.items() if value is not None}
        if "model" not in given:
            raise ConfigError("model is missing: give a folder or a hub name.")
        given["model"] = str(given["model"])
        if isinstance(given.get("disabled_plugins"), list):
            given["disabled_plugins"] = tuple(given["disabled_plugins"])
        return cls(**given)

    def task_of(self, made_for: str) -> str:
        """The task that was asked for, else the one that the model was made for."""
        if self.task != "auto":
            return self.task
        return {"auto": made_for, "generate": "generate", "pooling": "embed"}[self.runner]

    def __post_init__(self) -> None:
        self._check_choices()
        self._check_numbers()
        self._check_fetching()
        self._check_unbuilt()
        for name in (
            "hf_overrides",
            "limit_mm_per_prompt",
            "media_io_kwargs",
            "mm_processor_kwargs",
            "plugin_options",
            "plugin_choices",
        ):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a mapping.")

    def _check_choices(self) -> None:
        dtype = str(self.dtype).removeprefix("torch.")
        object.__setattr__(self, "dtype", dtype)
        _one_of("dtype", dtype, DTYPES)
        _one_of("task", self.task, ("auto", "generate", "embed"))
        _one_of("runner", self.runner, ("auto", "generate", "pooling"))
        if {self.task, self.runner} in ({"embed", "generate"}, {"generate", "pooling"}):
            raise ConfigError(
                f"task is {self.task!r} and runner is {self.runner!r}, which contradict each other."
            )
        _one_of("load_format", self.load_format, LOAD_FORMATS)
        _one_of(
            "chat_template_content_format",
            self.chat_template_content_format,
            ("auto", "openai", "string"),
        )
        names = self.disabled_plugins
        if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"disabled_plugins is {names!r}; it must be a list of names.")
        if self.engine_process is not None and not isinstance(self.engine_process, bool):
            raise ConfigError(
                f"engine_process is {self.engine_process!r}; allowed are True, False and None."
            )

    def _check_numbers(self) -> None:
        for name in (
            "page_size",
            "max_num_batched_tokens",
            "max_num_seqs",
            "max_encode_pieces_per_step",
            "max_queued_requests",
            "max_model_len",
            "kv_cache_memory_bytes",
            "media_threads",
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} is {value!r}; it must be an integer of at least 1.")
        if not isinstance(self.max_logprobs, int) or self.max_logprobs < -1:
            raise ConfigError(
                f"max_logprobs is {self.max_logprobs!r}; it must be an integer of at least 0, or "
                "-1 for no limit."
            )
        for name in ("mm_processor_cache_gb", "mm_encoder_cache_gb"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be at least 0.")
        if not isinstance(self.structured_outputs_forcing, bool):
            raise ConfigError(
                f"structured_outputs_forcing is {self.structured_outputs_forcing!r}; it must be "
                "True or False."
            )
        if not 0 < self.gpu_memory_utilization <= 1:
            raise ConfigError(
                f"gpu_memory_utilization is {self.gpu_memory_utilization!r}; "
                "it must be above 0 and at most 1."
            )

    def _check_fetching(self) -> None:
        for name in ("media_url_allow_redirects", "media_url_use_proxies"):
            if getattr(self, name) not in (None, True, False):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; allowed are True and False.")
        private, domains = self.allow_private_media_hosts, self.allowed_media_domains
        if not isinstance(private, (bool, list, tuple)):
            raise ConfigError(
                f"allow_private_media_hosts is {private!r}; allowed are True, False and a list of "
                "hosts and networks."
            )
        if domains is not None and not isinstance(domains, (list, tuple)):
            raise ConfigError(
                f"allowed_media_domains is {domains!r}; it must be a list of hosts, such as "
                '["media.example.org", "*.example.com"].'
            )
        path = self.allowed_local_media_path
        if path is not None:
            if not isinstance(path, (str, os.PathLike)):
                raise ConfigError(f"allowed_local_media_path is {path!r}; it must be a path.")
            object.__setattr__(self, "allowed_local_media_path", os.fspath(path) or None)
        memory = self.media_memory_gb
        if memory is not None and (not isinstance(memory, (int, float)) or not memory > 0):
            raise ConfigError(f"media_memory_gb is {memory!r}; it must be a number above 0.")

    def _check_unbuilt(self) -> None:
        if self.tensor_parallel_size != 1:
            raise ConfigError(
                f"tensor_parallel_size is {self.tensor_parallel_size}; only 1 is built so far."
            )


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; allowed are {', '.join(allowed)}.")
