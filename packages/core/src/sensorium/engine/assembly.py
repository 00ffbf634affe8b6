"""Puts an engine together: options → plugins, checkpoint, frontend, and a client of the engine.

The one place that knows all parts. Nothing here runs per request.

    here                  a process of its own        or a thread
    start a process ────→ it imports
    plugins, checkpoint   …
    tell it ────────────→ it loads                    it loads
    chat templates        …                           …
    wait for it ←──────── ready                       ready
    frontend
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sensorium.config import GIB, EngineConfig
from sensorium.engine.admission import Admission
from sensorium.engine.build import EngineInfo, build_engine
from sensorium.engine.client import EngineClient, ThreadClient
from sensorium.engine.embedding_modules import check_modules
from sensorium.engine.generation_config import (
    GenerationConfig,
    read_generation_config,
    warn_of_large_ids,
)
from sensorium.engine.ipc.process_client import ProcessClient
from sensorium.engine.ipc.setup import Setup, plugins_of
from sensorium.engine.model import Model, item_limits, open_model
from sensorium.errors import ConfigError
from sensorium.frontend.chat import ChatRenderer
from sensorium.frontend.frontend import Frontend
from sensorium.media.fetch.local import LocalRoot
from sensorium.media.fetch.policy import FetchPolicy
from sensorium.media.memory import MemoryBudget, default_budget_bytes
from sensorium.media.options import ProcessorOptions
from sensorium.media.pipeline import MediaPipeline
from sensorium.plugins.discovery import discover
from sensorium.plugins.guard import GuardedKind
from sensorium.plugins.kind import MediaKind
from sensorium.plugins.registry import Registry
from sensorium.tokenizer import Tokenizer, load_template

logger = logging.getLogger("sensorium.engine")

#: Device files by which an accelerator's driver can be recognised, on a machine and in a container.
DEVICE_FILES = ("/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True, slots=True)
class Assembly:
    """The parts that ``AsyncEngine`` uses."""

    frontend: Frontend
    admission: Admission
    client: EngineClient
    tokenizer: Tokenizer
    task: str
    info: EngineInfo
    kinds: Mapping[str, MediaKind]
    normalizes_embeddings: bool


def assemble(config: EngineConfig) -> Assembly:
    """Builds all parts; the engine takes no requests before its client is started.

    Raises:
        ConfigError, PluginError: as ``AsyncEngine``.
    """
    process = ProcessClient() if runs_apart(config) else None
    client: ProcessClient | ThreadClient | None = process
    try:
        registry = find_plugins(config)
        model = open_model(config, registry)
        limits = item_limits(config, model)
        # What the pipeline would refuse once the weights are loaded is refused before.
        ProcessorOptions(model.adapters, config.mm_processor_kwargs)
        generation = read_generation(model)
        task = config.task_of(model.family.task)
        if task == "embed":
            check_modules(model.checkpoint)
        policy = build_fetch_policy(config, model)
        if process is not None:
            process.load(Setup(config, plugins_of(registry)))
        client = process or ThreadClient(lambda: build_engine(config, model))
        chat = build_chat(config, model)
        info = client.wait_ready()
        model = model.without(info.lost_kinds)
        for kind, cause in model.unavailable.items():
            logger.warning("items of the kind %s aren't served: %s", kind, cause)
        return Assembly(
            frontend=build_frontend(
                model, chat, build_pipeline(config, model, limits, info, policy)
            ),
            admission=build_admission(config, model, generation, info),
            client=client,
            tokenizer=model.tokenizer,
            info=info,
            kinds={name: kind for name, kind in model.kinds.items() if name in model.adapters},
            normalizes_embeddings=model.family.normalizes_embeddings,
            task=task,
        )
    except BaseException:
        if client is not None:
            client.close()
        raise


def runs_apart(config: EngineConfig) -> bool:
    """Whether the engine is a process of its own.

    ``engine_process`` decides; without it, an engine on an accelerator is one, and "auto" counts as
    an accelerator where the machine shows one that ``CUDA_VISIBLE_DEVICES`` doesn't hide. The
    frontend's process never initialises CUDA: that would cost it a second, memory on the device,
    and the ability to fork.

    Raises:
        ConfigError: a process was asked for, and this system has no memory that two could share.
    """
    if config.engine_process is None:
        return hasattr(os, "memfd_create") and _on_accelerator(config.device)
    if config.engine_process and not hasattr(os, "memfd_create"):
        raise ConfigError("engine_process is True; engines in processes of their own need Linux.")
    return config.engine_process


def _on_accelerator(device: str) -> bool:
    if device != "auto":
        return device.partition(":")[0] == "cuda"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    return any(Path(file).exists() for file in DEVICE_FILES)


def find_plugins(config: EngineConfig) -> Registry:
    """The installed plugins; logs those that failed, once."""
    registry = discover(choices=config.plugin_choices, disabled=config.disabled_plugins)
    for status in registry.statuses:
        if status.error is not None:
            logger.warning("the plugin %s failed: %s", status.name, status.error)
    return registry


def build_chat(config: EngineConfig, model: Model) -> ChatRenderer:
    """How conversations become prompts."""
    return ChatRenderer(
        template=load_template(
            config.chat_template,
            model.checkpoint.folder,
            model.tokenizer,
            model.family.chat_template,
            model.family.chat_templates,
        ),
        tokenizer=model.tokenizer,
        kinds=model.kinds,
        adapters=model.adapters,
        content_format=config.chat_template_content_format,
        interleave_mm_strings=config.interleave_mm_strings,
        find_part=model.find_part,
    )


def build_fetch_policy(config: EngineConfig, model: Model) -> FetchPolicy:
    """Where media may be fetched from.

    Raises:
        ConfigError: a folder, host, network or environment variable that can't be used.
    """
    policy = FetchPolicy.from_options(
        local_path=config.allowed_local_media_path,
        domains=config.allowed_media_domains,
        private_hosts=config.allow_private_media_hosts,
        redirects=config.media_url_allow_redirects,
        use_proxies=config.media_url_use_proxies,
        kinds=model.kinds,
    )
    if policy.local_path is not None:
        LocalRoot(policy.local_path)
    return policy


def build_pipeline(
    config: EngineConfig,
    model: Model,
    limits: dict[str, int | None],
    info: EngineInfo,
    policy: FetchPolicy,
) -> MediaPipeline:
    """How media become items.

    Args:
        limits: as ``item_limits`` has them.
    """
    memory_gb = config.media_memory_gb
    architecture = model.checkpoint.architecture
    dtype: torch.dtype = getattr(torch, info.dtype)
    embed_widths = {
        kind: num_bytes // dtype.itemsize for kind, num_bytes in info.embed_row_bytes.items()
    }
    for kind, width in embed_widths.items():
        if kind in model.kinds:
            model.kinds[kind].expect_embeddings(width)
    return MediaPipeline(
        model.kinds,
        model.adapters,
        limits=limits,
        processor_kwargs=config.mm_processor_kwargs,
        cache_bytes=int(config.mm_processor_cache_gb * GIB),
        num_threads=config.media_threads,
        uuids_ignored=config.mm_processor_cache_gb == 0 and not config.enable_prefix_caching,
        architecture=architecture,
        find_kind=model.find_kind,
        embed_widths=embed_widths,
        dtype=dtype,
        fetch_policy=policy,
        memory=MemoryBudget(
            default_budget_bytes() if memory_gb is None else int(memory_gb * GIB),
            # An engine in a process of its own gets a copy of the features.
            copies=2 if runs_apart(config) else 1,
        ),
        remake_kind=partial(remake_kind, config, model),
    )


def remake_kind(
    config: EngineConfig, model: Model, name: str, options: Mapping[str, Any]
) -> MediaKind:
    """A kind that reads by a request's ``media_io_kwargs``, laid over the engine's."""
    kind = model.kinds[name]
    assert isinstance(kind, GuardedKind)
    return kind.with_options({**config.media_io_kwargs.get(name, {}), **options})


def build_frontend(model: Model, chat: ChatRenderer, pipeline: MediaPipeline) -> Frontend:
    """The way in."""
    return Frontend(
        folder=model.checkpoint.folder,
        tokenizer=model.tokenizer,
        family=model.family,
        adapters=model.adapters,
        context=model.context,
        pipeline=pipeline,
        chat=chat,
    )


def read_generation(model: Model) -> GenerationConfig:
    """What the checkpoint's files say of generation; warns of ids that the model lacks.

    Raises:
        ConfigError: as ``read_generation_config``.
    """
    checkpoint, tokenizer = model.checkpoint, model.tokenizer
    vocab_size = model.context.decoder.vocab_size
    warn_of_large_ids(checkpoint.name, tokenizer, vocab_size)
    return read_generation_config(
        checkpoint.name,
        checkpoint.generation,
        checkpoint.config,
        tokenizer,
        vocab_size,
        checkpoint.generation_of,
    )


def build_admission(
    config: EngineConfig, model: Model, generation: GenerationConfig, info: EngineInfo
) -> Admission:
    """The rules of admission."""
    return Admission(
        tokenizer=model.tokenizer,
        generation=generation,
        embed_row_bytes=info.embed_row_bytes,
        max_model_len=info.max_model_len,
        vocab_size=model.context.decoder.vocab_size,
        max_logprobs=config.max_logprobs,
    )
