"""``MultiModalDataDict`` and ``MultiModalUUIDDict``: what a prompt holds beside its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

#: A kind's name → its items, in any form that the kind takes: one, a list with None where an item
#: is left to its uuid, or a batch. Which kinds there are, the installed plugins say.
MultiModalDataDict: TypeAlias = Mapping[str, Any]
#: A kind's name → a uuid or None for each item; a bare text for a single one.
MultiModalUUIDDict: TypeAlias = Mapping[str, "Sequence[str | None] | str | None"]
