"""Averages two runs' weights: python average.py ONE OTHER SHARE OUTPUT (SHARE of OTHER, 0 … 1).

The average of a run and of its continuation answers better than either (Wortsman et al. 2022,
"Model soups").
"""

from __future__ import annotations

import sys

from safetensors.torch import load_file, save_file


def main(one_file: str, other_file: str, share: str, output: str) -> None:
    """Computed in float32, written in the files' own dtype."""
    one, other, part = load_file(one_file), load_file(other_file), float(share)
    mixed = {
        name: (tensor.float() + part * (other[name].float() - tensor.float())).to(tensor.dtype)
        for name, tensor in one.items()
    }
    save_file(mixed, output, metadata={"format": "pt"})


if __name__ == "__main__":
    main(*sys.argv[1:])
