"""Row 10 (CVE-2025-62164, CVE-2025-62372): sparse or wrongly shaped embeddings end alone.

Elsewhere a sparse tensor with indices out of range wrote out of bounds, and a wrong hidden size
killed the engine's process. Here each is refused at admission, and whoever came with it is
answered.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from sensorium import LLM, SamplingParams
from sensorium.errors import MediaError, RequestError

GREEDY = SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True)
GRID = torch.tensor([[1, 4, 4]])
NUM_TOKENS = 4
NEIGHBOUR = {"prompt": "who is there?"}


def hostile_sparse(hidden: int) -> torch.Tensor:
    """A sparse tensor whose index lies far outside: making it dense would write there."""
    with torch.sparse.check_sparse_tensor_invariants(False):
        return torch.sparse_coo_tensor(
            torch.tensor([[2**40], [0]]), torch.ones(1), (NUM_TOKENS, hidden)
        )


def good(hidden: int) -> torch.Tensor:
    return torch.linspace(-0.5, 0.5, NUM_TOKENS * hidden).reshape(NUM_TOKENS, hidden)


def one_not_finite(hidden: int, value: float) -> torch.Tensor:
    rows = good(hidden)
    rows[-1, -1] = value
    return rows


BAD: dict[str, tuple[Callable[[int], Any], str]] = {
    "sparse": (lambda h: good(h).to_sparse(), "sparse"),
    "sparse, indices out of range": (hostile_sparse, "sparse"),
    "sparse by rows": (lambda h: good(h).to_sparse_csr(), "sparse"),
    "integers": (lambda h: good(h).int(), "int32"),
    "complex": (lambda h: good(h).to(torch.complex64), "complex64"),
    "no values, a shape alone": (lambda h: good(h).to("meta"), "must be dense"),
    "one number": (lambda h: good(h)[0, 0], "shape"),
    "one row without its dimension": (lambda h: good(h)[0], "shape"),
    "four dimensions": (lambda h: good(h)[None, None], "shape"),
    "one column short": (lambda h: good(h)[:, :-1], "this model takes \\(tokens, 64\\)"),
    "one column long": (lambda h: good(h + 1), "this model takes \\(tokens, 64\\)"),
    "turned": (lambda h: good(h).T, "this model takes \\(tokens, 64\\)"),
    "one row short": (lambda h: good(h)[:-1], "takes 4 embedding rows"),
    "one row long": (lambda h: torch.cat([good(h), good(h)[:1]]), "takes 4 embedding rows"),
    "no rows": (lambda h: good(h)[:0], "the shape \\(0, 64\\)"),
    "nan": (lambda h: one_not_finite(h, float("nan")), "finite"),
    "infinity": (lambda h: one_not_finite(h, float("inf")), "finite"),
}


def request(rows: Any) -> dict[str, Any]:
    return {
        "prompt": "what is <image>?",
        "multi_modal_data": {"image": {"image_embeds": rows, "image_grid_thw": GRID}},
    }


#: Of the tiny checkpoint.
HIDDEN = 64


@pytest.mark.parametrize("name", BAD)
def test_row_10_refused_with_its_reason_and_alone(llm: LLM, name: str) -> None:
    make, reason = BAD[name]
    prompts = [NEIGHBOUR, request(make(HIDDEN)), request(good(HIDDEN))]
    (alone,) = llm.generate(NEIGHBOUR, GREEDY, use_tqdm=False)
    before, failed, after = llm.generate(prompts, GREEDY, use_tqdm=False, on_error="return")
    assert isinstance(failed.error, MediaError | RequestError)
    with pytest.raises(type(failed.error), match=f"^(image 0: |image_embeds ).*({reason})"):
        raise failed.error
    assert before.outputs[0].token_ids == alone.outputs[0].token_ids
    assert len(after.outputs[0].token_ids) == GREEDY.max_tokens
    llm.check_integrity()


@pytest.mark.parametrize("name", ["sparse", "sparse, indices out of range", "integers", "nan"])
def test_row_10_the_same_in_base64(llm: LLM, name: str) -> None:
    buffer = io.BytesIO()
    torch.save(BAD[name][0](HIDDEN), buffer)
    text = base64.b64encode(buffer.getvalue()).decode()
    part = {"type": "image_embeds", "image_embeds": {"image_embeds": text, "image_grid_thw": GRID}}
    content = [part, {"type": "text", "text": "what is it?"}]
    with pytest.raises((MediaError, RequestError)):
        llm.chat([{"role": "user", "content": content}], GREEDY, use_tqdm=False)
    (answer,) = llm.generate(NEIGHBOUR, GREEDY, use_tqdm=False)
    assert len(answer.outputs[0].token_ids) == GREEDY.max_tokens
    llm.check_integrity()
