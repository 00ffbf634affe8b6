"""How an item that takes long to encode is divided: runs of views, of about equal patches.

An adapter's plan and the encoder both go by this, the one with the number of pieces that the other
is then given.
"""

from __future__ import annotations

#: Patches that a piece has at most, where a single view has no more: what decoding waits for.
PATCHES_AT_ONCE = 4096


def num_pieces(num_views: int, patches: int) -> int:
    """Pieces of an item of ``num_views`` views, each with so many patches."""
    per_piece = max(1, PATCHES_AT_ONCE // patches)
    return -(-num_views // per_piece)


def piece_views(num_views: int, piece: int, num_pieces: int) -> tuple[int, int]:
    """The half-open run of views of piece number ``piece``; none is longer than the first."""
    return -(-num_views * piece // num_pieces), -(-num_views * (piece + 1) // num_pieces)
