"""Every field of a key counts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sensorium.media.keys import derived_key, item_key
from sensorium.plugins import MediaAdapter

CONTENT = bytes(32)


class Other:
    """Makes classes that differ in one thing."""

    @staticmethod
    def of(adapter: MediaAdapter, name: str = "", **attributes: Any) -> MediaAdapter:
        cls = type(name or type(adapter).__qualname__, (type(adapter),), attributes)
        cls.__module__ = type(adapter).__module__
        return cls()


def test_each_field_changes_the_key(adapter: MediaAdapter) -> None:
    base: dict[str, Any] = {
        "salt": "",
        "adapter": adapter,
        "io_options": {"color": "1"},
        "processor_options": {"size": [1, 2]},
        "content": CONTENT,
    }
    changes: list[dict[str, Any]] = [
        {},
        {"salt": "tenant"},
        {"adapter": Other.of(adapter, version=2)},
        {"adapter": Other.of(adapter, kind="other")},
        {"adapter": Other.of(adapter, "OtherAdapter")},
        {"io_options": {"color": "2"}},
        {"processor_options": {"size": [1, 3]}},
        {"embeds": True},
        {"content": b"\1" * 32},
        {"content": None, "uuid": "a"},
        {"content": None, "uuid": "b"},
        {"content": None, "uuid": "a", "salt": "tenant"},
        {"content": None, "uuid": "a", "processor_options": {}},
    ]
    keys = [item_key(**{**base, **change}) for change in changes]
    assert all(len(key) == 32 for key in keys)
    assert all(left != right for left, right in itertools.combinations(keys, 2))
    assert item_key(**base) == keys[0]


def test_a_uuid_that_spells_a_digest_is_another_key(adapter: MediaAdapter) -> None:
    fields: dict[str, Any] = {
        "salt": "",
        "adapter": adapter,
        "io_options": {},
        "processor_options": {},
    }
    by_content = item_key(**fields, content=b"A" * 32)
    by_uuid = item_key(**fields, uuid="A" * 32)
    assert by_content != by_uuid


def test_derived_keys_follow_parent_name_and_options(adapter: MediaAdapter) -> None:
    parent = item_key(
        salt="", adapter=adapter, io_options={}, processor_options={}, content=CONTENT
    )
    keys = [
        parent,
        derived_key(parent, "echo", adapter, {}),
        derived_key(bytes(32), "echo", adapter, {}),
        derived_key(parent, "other", adapter, {}),
        derived_key(parent, "echo", adapter, {"gain": 2}),
    ]
    assert len(set(keys)) == len(keys)


def test_a_plain_key_needs_one_of_uuid_and_content(adapter: MediaAdapter) -> None:
    with pytest.raises(AssertionError):
        item_key(salt="", adapter=adapter, io_options={}, processor_options={})
