"""Draws the kernels under their roofline, from figures that ``kernels.py --json`` kept.

    python benchmarks/figures/draw_roofline.py [FIGURES.json] [--out FILE.svg]

Across: operations for each byte that must move. Up: operations a second. The slope is the copy
bandwidth, the flat part the rate of the matrix units, both of the same run (Williams, Waterman and
Patterson 2009). Needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def points(lines: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Intensities (operations a byte) and rates (TFLOP/s) of one column of times."""
    some = [line for line in lines if line["flops"]]
    across = [line["flops"] / line["bytes"] for line in some]
    return across, [line["flops"] / line[key] / 1e6 for line in some]


def draw(figures: dict[str, Any], out: Path) -> None:
    """Writes the figure of what ``kernels.py`` kept."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "roofline"  # the same figure, byte for byte
    from matplotlib import pyplot

    lines = figures["lines"]
    copy, matrix = figures["copy"] / 1e12, figures["matrix"] / 1e12  # TB/s and TFLOP/s
    figure, axes = pyplot.subplots(figsize=(8, 5))
    roof = [1.0, matrix / copy, 4096.0]
    axes.plot(roof, [min(matrix, copy * x) for x in roof], color="0.4", label="roof")
    for key, label, marker in (("theirs_us", "torch", "x"), ("ours_us", "extension", "o")):
        axes.scatter(*points(lines, key), label=label, marker=marker, s=28)
    for line in lines:
        if line["flops"]:
            at = line["flops"] / line["bytes"], line["flops"] / line["ours_us"] / 1e6
            axes.annotate(line["name"], at, xytext=(4, -9), textcoords="offset points", fontsize=5)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="TFLOP/s")
    axes.grid(visible=True, which="major", color="0.9")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


def main() -> None:
    """Draws what is named, or what is kept of the last run on an H200."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("figures", nargs="?", type=Path, default=HERE / "kernels-h200.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/figures/roofline-h200.svg")
    options = parser.parse_args()
    draw(json.loads(options.figures.read_text()), options.out)
    print(f"drawn: {options.out}")


if __name__ == "__main__":
    main()
