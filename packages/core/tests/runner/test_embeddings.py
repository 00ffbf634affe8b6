"""What becomes of items whose encoder fails: by groups, by items, by the device."""

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
def test_whatever_an_encoder_raises_is_told_of_its_item(error: BaseException) -> None:
    def the_second_fails(given: Sequence[Features]) -> None:
        if any(int(one["number"]) == 1 for one in given):
            raise error

    _, embeddings = made(the_second_fails)
    if isinstance(error, KeyboardInterrupt):  # on the main thread it may be the user's
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
