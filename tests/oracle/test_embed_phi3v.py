"""VLM2Vec: vectors of texts and pictures equal the composed reference's.

VLM2Vec is Phi-3.5-vision trained to embed: the last token's state behind the last norm, divided by
its length; texts bare, pictures in up to 16 tiles, no chat template.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from phi3v_comparer import Comparer, Prompt, pictures
from served import served
from tiny_checkpoints import make_phi3v

from sensorium import LLM, AsyncEngine, PoolingParams
from sensorium.errors import ConfigError
from sensorium_server_openai.engine_port import EnginePort

PROMPTS: list[Prompt] = [
    ("<|image_1|> Represent the given image with the following question: What is it?", [(90, 120)]),
    ("<|image_1|> Represent the given image.", [(250, 60)]),
    ("Find me an everyday image that matches the given caption: a cat and a dog.", []),
    ("A cat and a dog", []),
    ("<|image_2|> against <|image_1|>", [(120, 90), (56, 300)]),
]
OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_model_len": 512}
TEMPLATE = "template_vlm2vec_phi3v"


def given(prompt: Prompt) -> dict[str, Any]:
    text, sizes = prompt
    return {"prompt": text, **({"multi_modal_data": {"image": pictures(sizes)}} if sizes else {})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phi3v(tmp_path_factory.mktemp("vlm2vec"), seed=3)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Comparer:
    return Comparer(folder)


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    crops = {"num_crops": 16}
    with LLM(folder, task="embed", mm_processor_kwargs=crops, **OPTIONS) as llm:
        yield llm


def test_vectors_are_the_references(llm: LLM, reference: Comparer) -> None:
    outputs = llm.embed([given(prompt) for prompt in PROMPTS], use_tqdm=False)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        vector = torch.tensor(output.outputs.embedding)
        assert abs(float(vector.norm()) - 1) < 1e-5
        torch.testing.assert_close(vector, reference.vector(prompt, 16), rtol=0, atol=1e-4)


def test_vectors_tell_pictures_apart(llm: LLM, reference: Comparer) -> None:
    """Else the comparison above would prove nothing."""
    text = PROMPTS[1][0]
    one, other = (reference.vector((text, [size]), 16) for size in ((250, 60), (90, 120)))
    assert float(one @ other) < 0.99


def test_raw_vectors_keep_their_length(llm: LLM) -> None:
    (output,) = llm.embed(given(PROMPTS[0]), PoolingParams(normalize=False), use_tqdm=False)
    assert abs(float(torch.tensor(output.outputs.embedding).norm()) - 1) > 0.1


def test_a_conversation_through_the_server_by_the_named_template(
    folder: Path, reference: Comparer
) -> None:
    """The request that vLLM's page shows: one message, a picture and an instruction."""
    buffer = io.BytesIO()
    pictures([(250, 60)])[0].save(buffer, "PNG")
    url = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "Represent the given image."},
    ]
    ask = {"messages": [{"role": "user", "content": parts}], "encoding_format": "float"}
    with (
        AsyncEngine(
            str(folder),
            runner="pooling",
            chat_template=f"{TEMPLATE}.jinja",
            mm_processor_kwargs={"num_crops": 16},
            **OPTIONS,
        ) as engine,
        served(EnginePort.of(engine, str(folder))) as server,
    ):
        found = server.post("/v1/embeddings", ask).json()
        two = server.post("/v1/embeddings", {"messages": 2 * ask["messages"]})
    vector = torch.tensor(found["data"][0]["embedding"])
    torch.testing.assert_close(vector, reference.vector(PROMPTS[1], 16), rtol=0, atol=1e-4)
    assert two.status_code == 400
    assert "one message" in two.text


def test_a_name_that_is_none_is_told_with_those_there_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match=TEMPLATE):
        LLM(folder, chat_template="template_vlm2vec", **OPTIONS)
