"""What pytest loads at its start: it shows a contract's failed assertion with its values."""

from __future__ import annotations

import pytest

for _module in ("kind", "adapter", "family", "media", "compositions"):
    pytest.register_assert_rewrite(f"sensorium.testing.{_module}")
