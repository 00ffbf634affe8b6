"""Steps whose chunks have several given tokens are replayed, and give what they give op by op."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_runner import VOCAB, Model, asked, step

from sensorium.ops import extension
from sensorium.sampling_params import SamplingParams
from sensorium.types import PENDING, Batch, Chunk, SampledTokens

pytestmark = pytest.mark.skipif(
    extension.lack(torch.device("cpu"), torch.float32) is not None, reason="no extension"
)

PROMPTS = {"plain": [5, 6, 7], "told": [i * 7 % VOCAB for i in range(9)], "lone": [3]}
TOLD = SamplingParams(temperature=0.0, logprobs=2, max_tokens=64).filled({})
DRAWN = SamplingParams(temperature=1.0, seed=4, max_tokens=64).filled({})
#: The number of tokens that each request computes in a step, the rows that it wants, and whether
#: its last token is still on the device.
STEPS = [
    {"plain": (5, 1, False), "told": (3, 3, False), "lone": (1, 1, True)},
    {"plain": (1, 1, True), "told": (4, 4, False), "lone": (3, 0, False)},
    {"plain": (6, 1, True), "told": (1, 1, True)},
    {"plain": (2, 1, False), "told": (2, 2, False), "lone": (4, 1, False)},
]


def tokens_of(
    model: Model, **options: Any
) -> tuple[list[dict[str, SampledTokens]], dict[Any, Any]]:
    """The tokens of each step, by request, and the programs by their rows."""
    runner = model.runner(**options)
    params = {"plain": DRAWN, "told": TOLD, "lone": DRAWN}
    started = tuple(asked(name, ids, params[name]) for name, ids in PROMPTS.items())
    chunks = {
        name: Chunk(name, 0, tuple(ids), tuple(range(16 * i, 16 * i + 16)), num_rows=1)
        for i, (name, ids) in enumerate(PROMPTS.items())
    }
    outputs = [step(runner, Batch(started=started, chunks=tuple(chunks.values())))]
    for number, sizes in enumerate(STEPS):
        for name, (count, num_rows, is_pending) in sizes.items():
            given = [(11 * number + 5 * i + len(name)) % VOCAB for i in range(count)]
            if is_pending:
                given[-1] = PENDING
            before = chunks[name]
            chunks[name] = before._replace(
                start=before.stop, token_ids=tuple(given), num_rows=num_rows
            )
        outputs.append(step(runner, Batch(chunks=tuple(chunks[name] for name in sizes))))
        assert not outputs[-1].failed
    recorded = runner._forward._recorded
    programs = {} if recorded is None else dict(recorded._programs)  # type: ignore[union-attr]
    runner.close()
    return [{t.request_id: t for t in output.tokens} for output in outputs], programs


def test_given_tokens_are_replayed(model: Model) -> None:
    found, programs = tokens_of(model)
    expected, none = tokens_of(model, enforce_eager=True)
    assert none == {}
    assert sorted(programs) == [8, 12]  # 9, 8, 7 and 8 rows: two are recorded, two replayed
    assert all(programs.values())
    for ours, theirs, sizes in zip(found, expected, [None, *STEPS], strict=True):
        assert ours.keys() == theirs.keys()
        assert sizes is None or ours.keys() == {name for name in sizes if sizes[name][1]}
        for name, sampled in ours.items():
            assert sampled.token_ids == theirs[name].token_ids
            for a, b in zip(sampled.logprobs, theirs[name].logprobs, strict=True):
                assert a.logprob == pytest.approx(b.logprob, abs=1e-4)
                assert a.rank == b.rank
