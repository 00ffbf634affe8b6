"""What becomes of items whose encoder fails: by groups, by items, by the device."""

import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from sensorium.plugins import EncoderOutput
from sensorium.plugins.guard import GuardedEncoder
from sensorium.runner.embeddings import Embeddings
from sensorium.types import EngineItem, Features

HIDDEN = 4


class Adapter:
    encoders = ("nose",)


class Nose(nn.Module):
    """Ones; before that, whatever a test wants to happen."""

    def __init__(self, happens: Callable[[Sequence[Features]], None]) -> None:
        super().__init__()
        self.happens = happens
        self.calls: list[list[int]] = []

    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        self.calls.append([int(item["number"]) for item in items])
        self.happens(items)
        return [EncoderOutput(torch.ones(2, HIDDEN)) for _ in items]


def made(happens: Callable[[Sequence[Features]], None]) -> tuple[Nose, Embeddings]:
    nose, adapter = Nose(happens), Adapter()
    guarded = GuardedEncoder(nose, "nose", "a-stranger", hidden_size=HIDDEN, levels=0)
    adapters: Any = {"scent": adapter}
    return nose, Embeddings(
        {"nose": guarded},
        adapters,
        hidden_size=HIDDEN,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def items(count: int) -> list[EngineItem]:
    return [
        EngineItem(bytes([i]), "scent", 2, 8, {"nose": {"number": torch.tensor([i])}}, index=i)
        for i in range(count)
    ]


def test_without_room_items_are_encoded_in_halves() -> None:
    def two_fit(given: Sequence[Features]) -> None:
        if len(given) > 2:
            raise torch.OutOfMemoryError

    nose, embeddings = made(two_fit)
    assert not embeddings.encode(items(7)).failures
    assert [call for call in nose.calls if len(call) <= 2] == [[0], [1, 2], [3, 4], [5, 6]]
    assert all(bytes([i]) in embeddings for i in range(7))


def test_an_item_that_never_fits_fails_alone_with_numbers() -> None:
    def the_third_is_too_large(given: Sequence[Features]) -> None:
        if any(int(one["number"]) == 2 for one in given):
            raise torch.OutOfMemoryError

    _, embeddings = made(the_third_is_too_large)
    failures = embeddings.encode(items(4)).failures
    assert failures == {
        bytes([2]): "The device has too little memory for the encoder nose and this item of 2 "
        "tokens, whose features take 8 bytes."
    }
    assert bytes([3]) in embeddings


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), BaseException("odd")])
def test_whatever_an_encoder_raises_is_told_of_its_item(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def the_second_fails(given: Sequence[Features]) -> None:
        if any(int(one["number"]) == 1 for one in given):
            raise error

    _, embeddings = made(the_second_fails)
    if isinstance(error, KeyboardInterrupt):  # on the main thread it may be the user's
        # Whoever started the tests in the background had SIGINT ignored.
        monkeypatch.setattr(signal, "getsignal", lambda number: signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt):
            embeddings.encode(items(3))
        return
    (failure,) = embeddings.encode(items(3)).failures.values()
    assert failure == (
        f"The encoder nose's forward of a-stranger raised {type(error).__name__}: "
        "a mistake in that plugin."
    )


def test_a_broken_device_is_not_taken_for_a_broken_item() -> None:
    def broken(given: Sequence[Features]) -> None:
        raise torch.AcceleratorError("illegal memory access")

    nose, embeddings = made(broken)
    with pytest.raises(torch.AcceleratorError):
        embeddings.encode(items(3))
    assert len(nose.calls) == 1


# --- piece by piece ------------------------------------------------------------------------


class Sniffer(Nose):
    """Two rows a piece, numbered, with one level; before that, whatever a test wants to happen."""

    def encode_piece(self, item: Features, piece: int, num_pieces: int) -> EncoderOutput:
        self.calls.append([int(item["number"]), piece, num_pieces])
        self.happens([item])
        rows = torch.arange(2.0 * piece, 2.0 * piece + 2)[:, None].expand(2, HIDDEN)
        return EncoderOutput(rows, 10 * rows[None])


def sniffer(happens: Callable[[Sequence[Features]], None]) -> tuple[Sniffer, Embeddings]:
    nose, adapter = Sniffer(happens), Adapter()
    guarded = GuardedEncoder(nose, "nose", "a-stranger", hidden_size=HIDDEN, levels=1)
    adapters: Any = {"scent": adapter}
    return nose, Embeddings(
        {"nose": guarded},
        adapters,
        hidden_size=HIDDEN,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def divided(num_tokens: int = 6) -> EngineItem:
    features = {"nose": {"number": torch.tensor([7])}}
    return EngineItem(b"key", "scent", num_tokens, 8, features, num_pieces=3)


def nothing(given: Sequence[Features]) -> None:
    """Nothing happens."""


def test_an_embedding_is_there_behind_its_last_piece_rows_and_levels_in_order() -> None:
    nose, embeddings = sniffer(nothing)
    first = embeddings.encode_pieces(divided(), 0, 2)
    assert not first.failures
    assert bool(first.finite[b"key"][0])
    assert b"key" not in embeddings
    assert not embeddings.encode_pieces(divided(), 2, 3).failures
    whole = embeddings[b"key"]
    assert whole.embeds[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert whole.deep is not None
    assert whole.deep[0, :, 1].tolist() == [0, 10, 20, 30, 40, 50]
    assert nose.calls == [[7, 0, 3], [7, 1, 3], [7, 2, 3]]
    embeddings.drop([b"key"])
    assert not embeddings.encode([divided()]).failures
    assert torch.equal(embeddings[b"key"].embeds, whole.embeds)


@pytest.mark.parametrize("error", [ValueError("odd"), torch.OutOfMemoryError()])
def test_a_piece_that_fails_takes_the_others_with_it(error: Exception) -> None:
    def the_second_fails(given: Sequence[Features]) -> None:
        if nose.calls[-1][1] == 1:
            raise error

    nose, embeddings = sniffer(the_second_fails)
    assert not embeddings.encode_pieces(divided(), 0, 1).failures
    failure = embeddings.encode_pieces(divided(), 1, 2).failures[b"key"]
    told = "encode_piece of a-stranger raised ValueError"
    assert ("too little memory" if isinstance(error, torch.OutOfMemoryError) else told) in failure
    assert embeddings.encode_pieces(divided(), 2, 3).failures == {b"key": failure}
    assert len(nose.calls) == 2, "nothing is encoded behind it"
    embeddings.drop([b"key"])
    assert not embeddings.encode_pieces(divided(), 0, 1).failures
    embeddings.drop([b"key"])
    assert "gone" in embeddings.encode_pieces(divided(), 1, 2).failures[b"key"]


def test_pieces_with_other_rows_than_planned_are_refused() -> None:
    _, embeddings = sniffer(nothing)
    failure = embeddings.encode([divided(num_tokens=7)]).failures[b"key"]
    assert "6 rows in 3 pieces where the plan says 7" in failure
    assert b"key" not in embeddings


def test_a_piece_that_is_not_finite_is_told_of_at_once() -> None:
    _, embeddings = sniffer(nothing)
    guarded: Any = embeddings._encoders["nose"]
    guarded.inner.encode_piece = lambda item, piece, num_pieces: EncoderOutput(
        torch.full((2, HIDDEN), float("nan") if piece == 1 else 1.0), torch.ones(1, 2, HIDDEN)
    )
    assert bool(embeddings.encode_pieces(divided(), 0, 1).finite[b"key"][0])
    assert not bool(embeddings.encode_pieces(divided(), 1, 2).finite[b"key"][0])


def test_an_encoder_without_pieces_is_named() -> None:
    _, embeddings = made(nothing)
    failure = embeddings.encode([*items(1), divided()]).failures
    assert list(failure) == [b"key"]
    assert "nose of a-stranger has no encode_piece" in failure[b"key"]
    assert bytes([0]) in embeddings


def test_what_a_piece_returns_is_checked() -> None:
    _, embeddings = sniffer(nothing)
    guarded: Any = embeddings._encoders["nose"]
    guarded.inner.encode_piece = lambda item, piece, num_pieces: [torch.ones(2, HIDDEN)]
    failure = embeddings.encode([divided()]).failures[b"key"]
    assert "encode_piece of a-stranger returned a list where an EncoderOutput belongs" in failure


def test_several_encoders_have_their_rows_one_behind_the_other() -> None:
    one, embeddings = sniffer(nothing)
    encoders: Any = embeddings._encoders
    encoders["ear"] = encoders["nose"]
    adapters: Any = embeddings._adapters
    adapters["scent"].encoders = ("nose", "ear")
    features = {name: {"number": torch.tensor([7])} for name in ("nose", "ear")}
    item = EngineItem(b"key", "scent", 12, 8, features, num_pieces=3)
    for piece in range(3):
        assert not embeddings.encode_pieces(item, piece, piece + 1).failures
    assert embeddings[b"key"].embeds[:, 0].tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert len(one.calls) == 6
