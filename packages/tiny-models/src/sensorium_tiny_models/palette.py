"""The colours that questions name, and the colour-shape pairs that training never shows.

Each name is a box in hue, saturation and value. The boxes lie well apart, so that a person agrees
with the name whatever shade is drawn from it.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Shades:
    """A box of shades: hue in degrees (may be negative around red), the others in 0..1."""

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]


COLORS: dict[str, Shades] = {
    "red": Shades((-6, 5), (0.82, 1.0), (0.75, 1.0)),
    "orange": Shades((25, 33), (0.9, 1.0), (0.93, 1.0)),
    "yellow": Shades((51, 58), (0.8, 1.0), (0.92, 1.0)),
    "green": Shades((105, 142), (0.6, 1.0), (0.42, 0.8)),
    "cyan": Shades((177, 188), (0.7, 1.0), (0.85, 1.0)),
    "blue": Shades((214, 236), (0.75, 1.0), (0.6, 1.0)),
    "purple": Shades((270, 285), (0.6, 0.9), (0.45, 0.72)),
    "pink": Shades((325, 340), (0.35, 0.6), (0.96, 1.0)),
    "brown": Shades((20, 28), (0.6, 0.8), (0.34, 0.5)),
    "black": Shades((0, 360), (0.0, 0.1), (0.0, 0.11)),
    "white": Shades((0, 360), (0.0, 0.03), (0.96, 1.0)),
    "gray": Shades((0, 360), (0.0, 0.05), (0.46, 0.6)),
}

# Never drawn in training, in no role (not even as a bystander): every colour once.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("orange", "hexagon"),
        ("yellow", "moon"),
        ("green", "ring"),
        ("cyan", "diamond"),
        ("blue", "heart"),
        ("purple", "cross"),
        ("pink", "triangle"),
        ("brown", "square"),
        ("black", "star"),
        ("white", "circle"),
        ("gray", "heart"),
    }
)


def shade(rng: random.Random, color: str) -> Rgb:
    """Draw one shade of the named colour."""
    box = COLORS[color]
    return hsv(rng.uniform(*box.hue), rng.uniform(*box.saturation), rng.uniform(*box.value))


def hsv(hue: float, saturation: float, value: float) -> Rgb:
    """Hue in degrees, the others in 0..1, to eight-bit RGB."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def distance(one: Rgb, other: Rgb) -> float:
    """How far apart two colours look: the red-mean approximation, 0 to about 765."""
    mean = (one[0] + other[0]) / 2
    red, green, blue = (a - b for a, b in zip(one, other, strict=True))
    squared = (
        (2 + mean / 256) * red * red + 4 * green * green + (2 + (255 - mean) / 256) * blue * blue
    )
    return float(squared**0.5)


def background(rng: random.Random, apart_from: list[Rgb], least: float = 150.0) -> Rgb:
    """Draw a background from which every colour of `apart_from` stands out."""
    best, best_gap = (128, 128, 128), -1.0
    for _ in range(30):
        kind = rng.random()
        if kind < 0.45:
            candidate = hsv(rng.uniform(0, 360), rng.uniform(0.0, 0.22), rng.uniform(0.84, 1.0))
        elif kind < 0.7:
            candidate = hsv(rng.uniform(0, 360), rng.uniform(0.0, 0.6), rng.uniform(0.05, 0.3))
        else:
            candidate = hsv(rng.uniform(0, 360), rng.uniform(0.0, 0.55), rng.uniform(0.3, 0.9))
        gap = min((distance(candidate, color) for color in apart_from), default=least)
        if gap >= least:
            return candidate
        if gap > best_gap:
            best, best_gap = candidate, gap
    return best
