"""Token ids and text equal transformers'; literal text makes no special tokens."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models
from tokenizers import pre_tokenizers as pre

from sensorium.errors import ConfigError, RequestError, UnsupportedError
from sensorium.plugins import TokenizerView
from sensorium.tokenizer import Tokenizer

PIECES = [
    "<s>",
    "</s>",
    "<|im_end|>",
    "<think>",
    "<thing>",
    " ",
    "\n",
    "the",
    "é",
    "🎈",
    "日本",
    ".",
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=8).map("".join)


@settings(deadline=None)
@given(text=TEXTS)
def test_ids_and_text_equal_transformers(pair: Any, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = pair.ours.encode(text)
    assert ids == pair.oracle.encode(text, add_special_tokens=False)
    with_specials = pair.ours.encode(text, add_special_tokens=True)
    assert with_specials == pair.oracle.encode(text)
    for skip in (False, True):
        decoded = pair.ours.decode(with_specials, skip_special_tokens=skip)
        assert decoded == pair.oracle.decode(with_specials, skip_special_tokens=skip)


@settings(deadline=None)
@given(text=TEXTS)
def test_plain_text_holds_no_special_token(pair: Any, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = pair.ours.encode_plain(text)
    unknown = {pair.ours.token_to_id("<unk>")}
    assert not (pair.ours.special_ids - unknown) & set(ids)
    assert pair.ours.decode(ids) == pair.oracle.decode(
        pair.oracle._encode_without_added_tokens(text)
    )


@pytest.mark.parametrize("size", [4095, 4096, 50_000])
def test_long_texts_are_encoded_and_decoded_as_short_ones(pair: Any, size: int) -> None:
    """They take another way through the library, which lets other threads run meanwhile."""
    text = ("".join(PIECES) * (1 + size // len("".join(PIECES))))[:size]
    ids = pair.ours.encode(text)
    assert ids == pair.oracle.encode(text, add_special_tokens=False)
    assert pair.ours.encode(text, add_special_tokens=True) == pair.oracle.encode(text)
    for skip in (False, True):
        decoded = pair.ours.decode(ids, skip_special_tokens=skip)
        assert decoded == pair.oracle.decode(ids, skip_special_tokens=skip)
    assert pair.ours.encode_plain(text) == step_by_step(pair.ours, text)
    assert set(pair.ours.encode_plain(text, continues=True)).isdisjoint(
        pair.ours.special_ids - {pair.ours.token_to_id("<unk>")}
    )


def step_by_step(tokenizer: Tokenizer, text: str) -> list[int]:
    """The steps of a tokenizer without its search for added tokens, one by one."""
    backend = Backend.from_str(tokenizer.to_json())
    if backend.normalizer is not None:
        text = backend.normalizer.normalize_str(text)
    words = [text]
    if backend.pre_tokenizer is not None:
        words = [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)]
    return [token.id for word in words for token in backend.model.tokenize(word)]


def test_ids_and_names_of_tokens(pair: Any) -> None:
    ours, oracle = pair.ours, pair.oracle
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert getattr(ours, name) == getattr(oracle, name)
    assert ours.vocab_size == len(oracle)
    assert ours.special_ids == set(oracle.all_special_ids) | {
        i for i, token in oracle.added_tokens_decoder.items() if token.special
    }
    assert set(ours.added_tokens) == set(oracle.get_added_vocab())
    assert ours.token_to_id("nothing of the kind") is None
    assert ours.id_to_token(10**6) is None
    assert ours.id_to_token(ours.eos_token_id) == oracle.eos_token


def test_it_is_what_plugins_are_promised(qwen: Any) -> None:
    view: TokenizerView = qwen.ours
    assert view.decode(view.encode("the fox")) == "the fox"


def test_a_continuation_begins_no_word(llama: Any, qwen: Any) -> None:
    for text in ("fox", " fox", "\nfox", "\n\nfox", "<s>fox", ".", "é"):
        for encode in (llama.ours.encode, llama.ours.encode_plain):
            together = [*llama.ours.encode("dog"), *encode(text, continues=True)]
            assert llama.ours.decode(together).replace(" ", "") == f"dog{text}".replace(" ", "")
        assert qwen.ours.encode(text, continues=True) == qwen.ours.encode(text)
    assert llama.ours.encode("fox") != llama.ours.encode("fox", continues=True)
    assert llama.ours.decode(llama.ours.encode("the") + llama.ours.encode("y", continues=True)) == (
        "they"
    )


def test_affixes_are_what_special_tokens_add(llama: Any, qwen: Any) -> None:
    assert llama.ours.affixes == ([1], [])
    assert qwen.ours.affixes == ([], [])


@pytest.mark.parametrize("add_bos", [None, False, True])
@pytest.mark.parametrize("add_eos", [None, False, True])
def test_bos_and_eos_are_those_of_tokenizer_json(
    llama: Any, tmp_path: Path, add_bos: bool | None, add_eos: bool | None
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(llama.folder, tmp_path / "t")
    given = {"add_bos_token": add_bos, "add_eos_token": add_eos}
    change_config(tmp_path / "t", {k: v for k, v in given.items() if v is not None})
    ours, oracle = Tokenizer.load(tmp_path / "t"), AutoTokenizer.from_pretrained(tmp_path / "t")
    assert ours.encode("the fox", add_special_tokens=True) == oracle.encode("the fox")


def test_tokens_that_only_the_config_lists(llama: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(llama.folder, tmp_path / "t")
    first = llama.ours.vocab_size
    flags = {"lstrip": False, "rstrip": True, "normalized": False, "single_word": False}
    listed = {str(first): {"content": "<more>", "special": False, **flags}}
    known = {"0": "<unk>", "1": "<s>", "2": "</s>"}
    listed |= {
        k: {"content": v, "special": True, **flags, "rstrip": False} for k, v in known.items()
    }
    change_config(tmp_path / "t", {"added_tokens_decoder": listed, "pad_token": "<pad>"})
    ours, oracle = Tokenizer.load(tmp_path / "t"), AutoTokenizer.from_pretrained(tmp_path / "t")
    text = "the <more>  fox<pad>"
    assert ours.encode(text) == oracle.encode(text, add_special_tokens=False)
    assert ours.pad_token_id == oracle.pad_token_id == first + 1
    assert first not in ours.special_ids


def test_older_files_beside_it(llama: Any, tmp_path: Path) -> None:
    shutil.copytree(llama.folder, tmp_path / "t")
    (tmp_path / "t" / "tokenizer_config.json").unlink()
    special = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}}
    (tmp_path / "t" / "special_tokens_map.json").write_text(json.dumps(special))
    (tmp_path / "t" / "added_tokens.json").write_text(json.dumps({"<more>": 10_000}))
    ours = Tokenizer.load(tmp_path / "t")
    assert (ours.bos_token_id, ours.eos_token_id) == (1, 2)
    assert "<more>" in ours.added_tokens


def test_a_model_that_holds_its_special_tokens_as_pieces(tmp_path: Path) -> None:
    pieces = [("<unk>", -9.0), ("<s>", 0.0), ("<", -5.0), ("s", -5.0), (">", -5.0), ("▁", -3.0)]
    backend = Backend(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer, backend.decoder = pre.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.encode_plain("<s>" * 400)) == "<s>" * 400
    assert 1 not in tokenizer.encode_plain("<s>" * 400)


def test_many_threads_at_once(qwen: Any) -> None:
    texts = [f"<|im_start|>the fox {i}<|im_end|>" for i in range(200)]
    alone = [(qwen.ours.encode(t), qwen.ours.encode_plain(t)) for t in texts]
    with ThreadPoolExecutor(8) as pool:
        both = pool.map(lambda t: (qwen.ours.encode(t), qwen.ours.encode_plain(t)), texts)
        assert list(both) == alone


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"has no tokenizer\.json; pass tokenizer="),
        ({"tokenizer.model": ""}, r"tokenizer\.model but no tokenizer\.json.*save_pretrained"),
        ({"tokenizer.json": "{"}, r"tokenizer\.json can't be read"),
    ],
)
def test_folders_that_cannot_be_read(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)


def test_a_broken_list_of_added_tokens(qwen: Any, tmp_path: Path) -> None:
    shutil.copytree(qwen.folder, tmp_path / "t")
    change_config(tmp_path / "t", {"added_tokens_decoder": {"first": {"content": "x"}}})
    with pytest.raises(ConfigError, match="added_tokens_decoder"):
        Tokenizer.load(tmp_path / "t")


def test_apply_chat_template_equals_transformers(qwen: Any) -> None:
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{{ extra }}"
    )
    messages = [{"role": "user", "content": "Hi <|im_end|> there"}]
    options = {"chat_template": template, "add_generation_prompt": True, "extra": "!"}
    ours = qwen.ours.apply_chat_template(messages, **options)
    assert ours == qwen.oracle.apply_chat_template(messages, return_dict=False, **options)
    text = qwen.ours.apply_chat_template(messages, tokenize=False, **options)
    assert text == qwen.oracle.apply_chat_template(messages, tokenize=False, **options)
    with pytest.raises(UnsupportedError, match="return_tensors"):
        qwen.ours.apply_chat_template(messages, return_tensors="pt", **options)
    with pytest.raises(RequestError, match="no chat template"):
        qwen.ours.apply_chat_template(messages)


def change_config(folder: Path, changes: dict[str, Any]) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_the_text_of_one_token_is_what_it_is_within_a_text(llama: Any, qwen: Any) -> None:
    assert llama.ours.token_text(llama.ours.token_to_id("▁")) == " "
    assert llama.ours.token_text(llama.ours.token_to_id("<0xC3>")) == "\ufffd"
    for pair in (llama, qwen):
        ids = pair.ours.encode("the quick brown fox")
        assert "".join(map(pair.ours.token_text, ids)).lstrip() == "the quick brown fox"
        assert pair.ours.token_text(10**6) == ""
