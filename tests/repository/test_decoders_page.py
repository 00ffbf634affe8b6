"""docs/decoders.md lists what core serves."""

from dataclasses import fields
from pathlib import Path

from sensorium.decoder_config import DecoderConfig
from sensorium.models.plugin import sensorium_model_families
from sensorium.models.styles import STYLES
from sensorium.ops.rope_scaling import SCALINGS


def unlisted(page: str) -> list[str]:
    """Return the styles with their architectures, scalings and fields that a page leaves out."""
    by_style: dict[str, list[str]] = {}
    for family in sensorium_model_families():
        by_style.setdefault(family.style, []).extend(family.architectures)  # type: ignore[attr-defined]
    rows = [
        f"| `{style}` | {', '.join(f'`{name}`' for name in names)} |"
        for style, names in by_style.items()
    ]
    scalings = [f"`{name}`" for name in SCALINGS if name != "mrope"]
    used = {name for style in STYLES.values() for name in style.fields} | {"local_rope"}
    words = [f"`{field.name}" for field in fields(DecoderConfig) if field.name in used]
    return [text for text in (*rows, *scalings, *words) if text not in page]


def test_the_page_lists_every_family_and_scaling(root: Path) -> None:
    page = (root / "docs" / "decoders.md").read_text(encoding="utf-8")
    assert not unlisted(page)
    assert len(STYLES) * 2 == len(sensorium_model_families())


def test_a_planted_omission_is_found(root: Path) -> None:
    page = (root / "docs" / "decoders.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if line.startswith("| `olmo2`"))
    assert unlisted(page.replace(row, "")) != []
    assert unlisted(page.replace("`yarn`", "")) == ["`yarn`"]
