"""A kind that nobody here ships, answered from: the guard of the plugin interface.

``foreign/`` is a stranger's distribution. It attaches an encoder of its own, with weights of
its own, to families that never heard of it; checkpoints and tokenizers stay as they are. The
reference is transformers with the plugin's embeddings put where the items stand.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from greedy import Comparison
from scents import DISTRIBUTION, MODULE, ROSE, SOURCE, TAR, embedding, places
from tiny_checkpoints import make_llama, make_qwen2, make_qwen25vl
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from sensorium import LLM, SamplingParams
from sensorium.errors import MediaError, PluginError, RequestError
from sensorium.outputs import RequestOutput

GREEDY = SamplingParams(temperature=0.0, repetition_penalty=1.0, max_tokens=12, ignore_eos=True)
MAKERS: dict[str, Callable[..., Path]] = {
    "llama": make_llama,
    "qwen2": make_qwen2,
    "qwen2.5-vl": make_qwen25vl,
}


@pytest.fixture(scope="module")
def scents(installed: Any) -> Iterator[None]:
    """The foreign distribution, installed."""
    with installed(DISTRIBUTION, SOURCE, MODULE):
        yield


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ordinary random checkpoint of a family that the plugin attaches itself to."""
    return MAKERS[request.param](tmp_path_factory.mktemp("model"), seed=5)


@pytest.fixture(scope="module")
def llm(folder: Path, scents: None) -> Iterator[LLM]:
    with LLM(folder, dtype="float32", max_model_len=256, max_num_batched_tokens=16) as engine:
        yield engine
        engine.check_integrity()


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    """The same decoder in transformers."""
    several = hasattr(AutoConfig.from_pretrained(folder), "vision_config")
    loader = AutoModelForImageTextToText if several else AutoModelForCausalLM
    return loader.from_pretrained(folder, dtype=torch.float32).eval()


def check(reference: Any, output: RequestOutput, scents: list[Any]) -> Comparison:
    """The answer is what transformers answers with the scents' embeddings in their places."""
    answer = output.outputs[0].token_ids
    ids = torch.tensor([[*output.prompt_token_ids, *answer]])
    with torch.inference_mode():
        embeds = reference.get_input_embeddings()(ids).clone()
        if scents:
            embeds[0, places(output.prompt_token_ids, len(scents))] = torch.cat(
                [embedding(scent) for scent in scents]
            )
        positions = torch.arange(ids.shape[1])[None]
        if hasattr(reference.config, "vision_config"):
            positions = positions.expand(3, 1, -1)
        logits = reference(inputs_embeds=embeds, position_ids=positions).logits[0]
    comparison = Comparison()
    comparison.add(logits[-len(answer) - 1 : -1], answer, f"{len(scents)} scents")
    return comparison


def test_generate_answers_from_the_scent(llm: LLM, reference: Any) -> None:
    assert llm.get_tokenizer().token_to_id("<scent>") is None
    text = "The bottle smells of <scent>, I would say that it is"
    two = "First <scent> and then, in the other bottle, <scent> again: which of them is"
    prompts: list[Any] = [
        {"prompt": text, "multi_modal_data": {"scent": ROSE}},
        {"prompt": text, "multi_modal_data": {"scent": TAR}},
        {"prompt": two, "multi_modal_data": {"scent": [ROSE, TAR]}},
        {"prompt": two, "multi_modal_data": {"scent": [TAR, ROSE]}},
        "The bottle smells of nothing, I would say that it is",
    ]
    given: list[list[Any]] = [[ROSE], [TAR], [ROSE, TAR], [TAR, ROSE], []]
    for outputs in (llm.generate(prompts, GREEDY, use_tqdm=False) for _ in range(2)):
        answers = [output.outputs[0].token_ids for output in outputs]
        assert answers[0] != answers[1], "the answer doesn't depend on the scent"
        assert answers[2] != answers[3], "the answer doesn't depend on the scents' order"
        for output, scents in zip(outputs, given, strict=True):
            check(reference, output, scents)
    # The second time around the prompts were cached, each under its own scent.
    assert all(output.num_cached_tokens > 0 for output in outputs)


def test_chat_answers_from_the_scent(llm: LLM, reference: Any) -> None:
    def conversation(scent: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = [
            {"type": "text", "text": "What is"},
            {"type": "scent", "scent": scent},
            {"type": "text", "text": "made of? <scent> here is only text."},
        ]
        return [{"role": "user", "content": asked}]

    outputs = llm.chat([conversation(ROSE), conversation(TAR)], GREEDY, use_tqdm=False)
    for output, scent in zip(outputs, (ROSE, TAR), strict=True):
        check(reference, output, [scent])
    rose, tar = (output.outputs[0].token_ids for output in outputs)
    assert rose != tar


def test_mistakes_are_told_and_the_engine_goes_on(llm: LLM, reference: Any) -> None:
    def ask(prompt: str, **media: Any) -> list[RequestOutput]:
        given: Any = {"prompt": prompt, "multi_modal_data": media}
        return llm.generate(given, GREEDY, use_tqdm=False)

    with pytest.raises(MediaError, match="scent 0: a scent is 8 numbers, one for each sensor"):
        ask("<scent>", scent=np.zeros(7))
    with pytest.raises(MediaError, match="scent 0: "):
        ask("<scent>", scent="a rose")
    with pytest.raises(RequestError, match="1 placeholder"):
        ask("<scent>", scent=[ROSE, TAR])
    with pytest.raises(PluginError, match="No installed plugin serves the kind 'taste'"):
        ask("<taste>", taste=[1.0])
    (output,) = ask("<scent>", scent=ROSE)
    check(reference, output, [ROSE])


def test_the_plugin_is_about_thirty_statements() -> None:
    """Imports, docstrings and the lines that only open a class or a function not counted."""
    headers = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    trees = [ast.parse(file.read_text()) for file in SOURCE.rglob("*.py")]
    statements = [
        node
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt)
        and not isinstance(node, headers)
        and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    assert 20 < len(statements) <= 35
