"""Keys of items: one key drives the processor, the encoder and the prefix cache.

Two items share a key only if the same adapter, with the same options, would make the same
embeddings of them, and only within one salt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.media.digest import Digest
from sensorium.plugins.adapter import MediaAdapter
from sensorium.plugins.guard import class_of
from sensorium.types import MediaPlan


def item_key(
    *,
    salt: str,
    adapter: MediaAdapter,
    io_options: Mapping[str, Any],
    processor_options: Mapping[str, Any],
    embeds: bool = False,
    uuid: str | None = None,
    content: bytes | None = None,
) -> bytes:
    """The 32-byte key of an item.

    Args:
        salt: keeps the cache entries of different tenants apart.
        adapter: its kind, class and version are part of the key.
        io_options: ``MediaKind.options_key()``.
        processor_options: what ``MediaAdapter.options`` returned.
        embeds: whether the caller gave embeddings instead of media.
        uuid, content: exactly one of them: the caller's name for the content, or its digest.

    Raises:
        TypeError: an option that is no plain value.
    """
    assert (uuid is None) != (content is None), "a key is made of a uuid or of a digest"
    digest = Digest("sensorium item").add(salt)
    _add_adapter(digest, adapter, processor_options)
    digest.add(io_options).add("embeds" if embeds else "raw")
    return digest.add(uuid).add(content).digest()


def planned_key(key: bytes, plan: MediaPlan) -> bytes:
    """The key under which the engine knows an item that is named by a uuid.

    A name that is used again for other content of another size would meet embeddings and pages that
    were computed from the first: what an item looks like to the model is therefore part of its key.
    """
    digest = Digest("sensorium planned item").add(key).add(plan.num_tokens).add(plan.grid)
    digest.add(plan.num_pieces)
    return digest.add(len(plan.token_ids)).add(plan.is_embed).digest()


def derived_key(
    parent: bytes, name: str, adapter: MediaAdapter, processor_options: Mapping[str, Any]
) -> bytes:
    """The key of what was found inside the item with the key ``parent``.

    Its own adapter and options count too: the parent's key says nothing of them.
    """
    digest = Digest("sensorium derived item").add(parent).add(name)
    _add_adapter(digest, adapter, processor_options)
    return digest.digest()


def _add_adapter(digest: Digest, adapter: MediaAdapter, options: Mapping[str, Any]) -> None:
    digest.add(adapter.kind).add(class_of(adapter)).add(adapter.version)
    digest.add(options)
