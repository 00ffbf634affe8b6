"""Text, stop strings, log-probabilities and reasons of a request's answers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_tokenizers import write_llama_like, write_qwen_like
from tokenizers import decoders, models, pre_tokenizers

from sensorium.engine.admission import bad_word_ids
from sensorium.output import RequestState
from sensorium.outputs import CompletionOutput, RequestMetrics, RequestOutputKind
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.types import RequestUpdate, TokenLogprobs

EOS = 256


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """One token a byte, so that any text can be cut anywhere; ids 256 and 257 are special."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<eos>", "<pad>"])
    folder = tmp_path_factory.mktemp("bytes")
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)


def state(
    tokenizer: Tokenizer, prompt_token_ids: tuple[int, ...] = (1, 2), **params: Any
) -> RequestState:
    return RequestState(
        request_id="r",
        prompt="p",
        prompt_token_ids=prompt_token_ids,
        sampling=SamplingParams(**params),
        tokenizer=tokenizer,
        metrics=RequestMetrics(),
        child_ids=[f"r#{i}" for i in range(params["n"])] if "n" in params else ["r"],
    )


def feed(
    request: RequestState, ids: Sequence[int], *, size: int = 1, **last: Any
) -> list[CompletionOutput]:
    """Applies ``ids`` in updates of ``size``; ``last`` goes into the last one."""
    seen = []
    updates = [tuple(ids[i : i + size]) for i in range(0, len(ids), size)] or [()]
    for i, new in enumerate(updates):
        more = last if i == len(updates) - 1 else {}
        request.apply(RequestUpdate("r", new_token_ids=new, **more))
        seen.append(request.output().outputs[0])
    return seen


def ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


# --- text -----------------------------------------------------------------------------


@settings(deadline=None)
@given(text=st.text(max_size=30), size=st.integers(1, 5))
def test_text_grows_and_ends_whole(tokenizer: Tokenizer, text: str, size: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    request = state(tokenizer, max_tokens=1000)
    seen = feed(request, ids_of(tokenizer, text), size=size, finish_reason="length")
    for earlier, later in itertools.pairwise(seen):
        assert later.text.startswith(earlier.text)
        assert "\ufffd" not in earlier.text
    assert seen[-1].text == text
    assert (seen[-1].finish_reason, seen[-1].stop_reason) == ("length", None)


def test_without_detokenising_there_are_only_ids(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, detokenize=False)
    last = feed(request, ids_of(tokenizer, "hello"), finish_reason="length")[-1]
    assert (last.text, len(last.token_ids)) == ("", 5)


def test_the_end_of_text_token_is_an_id_and_no_text(tokenizer: Tokenizer) -> None:
    ids = [*ids_of(tokenizer, "yes"), EOS]
    for skip in (True, False):
        request = state(tokenizer, skip_special_tokens=skip)
        last = feed(request, ids, finish_reason="stop", stop_id=EOS)[-1]
        assert (last.text, last.token_ids[-1]) == ("yes", EOS)
        assert (last.finish_reason, last.stop_reason) == ("stop", None)


def test_a_stop_token_is_named_and_included_on_request(tokenizer: Tokenizer) -> None:
    ids = ids_of(tokenizer, "yes!")
    asked = {"stop_token_ids": [ids[-1]]}
    last = feed(state(tokenizer, **asked), ids, finish_reason="stop", stop_id=ids[-1])[-1]
    assert (last.text, last.stop_reason) == ("yes", ids[-1])
    request = state(tokenizer, **asked, include_stop_str_in_output=True)
    assert feed(request, ids, finish_reason="stop", stop_id=ids[-1])[-1].text == "yes!"


# --- stop strings ---------------------------------------------------------------------


@settings(deadline=None)
@given(
    head=st.text("abé🎈 ", max_size=8),
    stop=st.sampled_from(["xy", "é🎈x", "x", "🎈🎈x"]),
    tail=st.text("abxy", max_size=5),
    size=st.integers(1, 7),
)
def test_a_stop_string_cuts_wherever_the_tokens_end(
    tokenizer: Tokenizer, head: str, stop: str, tail: str, size: int
) -> None:
    text = head + stop + tail
    cut = text.index(stop)
    request = state(tokenizer, stop=stop, max_tokens=1000)
    aborted: list[str] = []
    ids = ids_of(tokenizer, text)
    for i in range(0, len(ids), size):
        aborted += request.apply(RequestUpdate("r", new_token_ids=tuple(ids[i : i + size])))
        shown = request.output().outputs[0].text
        assert text[:cut].startswith(shown), "nothing of a stop string may ever be shown"
    last = request.output().outputs[0]
    assert (last.text, last.finish_reason, last.stop_reason) == (text[:cut], "stop", stop)
    assert last.token_ids == tuple(ids_of(tokenizer, text[: cut + len(stop)]))
    assert aborted == ["r"]
    assert request.finished


def test_of_several_the_one_that_begins_first_counts(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, stop=["def", "bcde"], max_tokens=100)
    last = feed(request, ids_of(tokenizer, "abcdefg"), size=7)[-1]
    assert (last.text, last.stop_reason) == ("a", "bcde")


def test_the_stop_string_is_kept_on_request(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, stop="b", include_stop_str_in_output=True)
    assert feed(request, ids_of(tokenizer, "abc"))[-1].text == "ab"


def test_held_back_text_comes_at_the_end(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, stop="<end>")
    seen = feed(request, ids_of(tokenizer, "a<en"), finish_reason="length")
    assert [output.text for output in seen] == ["a", "a", "a", "a<en"]


def test_stop_strings_wait_for_min_tokens(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, stop="x", min_tokens=3)
    seen = feed(request, ids_of(tokenizer, "axbxc"))
    assert seen[-1].text == "axb"


def test_the_engine_need_not_abort_what_it_ended_itself(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, stop="b")
    ids = tuple(ids_of(tokenizer, "ab"))
    assert request.apply(RequestUpdate("r", new_token_ids=ids, finish_reason="length")) == []
    assert request.output().outputs[0].stop_reason == "b"


def test_updates_behind_the_end_change_nothing(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, stop="b")
    feed(request, ids_of(tokenizer, "ab"))
    before = request.output()
    request.apply(RequestUpdate("r", new_token_ids=(5,), finish_reason="abort"))
    assert request.output().outputs == before.outputs


HIDDEN = (EOS, EOS + 1)


@settings(deadline=None)
@given(
    pieces=st.lists(
        st.one_of(st.sampled_from(HIDDEN), st.text("abé🎈<e>", min_size=1, max_size=3))
    ),
    stops=st.sets(
        st.sampled_from(["<eos>", "<pad>", "ab<eos>", "<eos>b", "<eos><pad>a", "e", "ba"]),
        min_size=1,
    ),
    size=st.integers(1, 4),
    included=st.booleans(),
)
def test_stop_strings_hold_special_tokens_that_are_hidden(
    tokenizer: Tokenizer, pieces: list[int | str], stops: set[str], size: int, included: bool
) -> None:
    """Such a string stops where the text with special tokens holds it, less what is hidden."""
    ids: list[int] = []
    for piece in pieces:
        ids += [piece] if isinstance(piece, int) else ids_of(tokenizer, piece)
    params = {"stop": sorted(stops), "max_tokens": 1000, "include_stop_str_in_output": included}
    last = feed(state(tokenizer, **params), ids, size=size, finish_reason="length")[-1]
    # A hidden token is there as a whole or not at all: one letter stands for it here.
    letters = str.maketrans(dict.fromkeys("XY"))
    spelt = [s.replace("<eos>", "X").replace("<pad>", "Y") for s in sorted(stops)]
    full = "".join("XY"[HIDDEN.index(p)] if isinstance(p, int) else p for p in pieces)
    ends = [full.find(s) + len(s) for s in spelt if s in full]
    if not ends:
        assert last.finish_reason == "length" or "ba" in full.translate(letters)
        return
    if any(s in full.translate(letters) and s not in full for s in spelt):
        return  # a stop string across a hidden token: it counts, as in the text that is seen
    first = min(ends)
    found = min((s for s in spelt if full.endswith(s, 0, first)), key=lambda s: (-len(s), s))
    assert last.finish_reason == "stop"
    assert last.stop_reason == found.replace("X", "<eos>").replace("Y", "<pad>")
    seen = full[: first - len(found)].translate(letters)
    assert last.text == seen + (str(last.stop_reason) if included else "")


def test_a_stop_string_is_found_across_a_hidden_token(tokenizer: Tokenizer) -> None:
    a, b = ids_of(tokenizer, "ab")
    last = feed(state(tokenizer, stop=["ab", "x<eos>"]), [a, EOS, b, b])[-1]
    assert (last.text, last.stop_reason, list(last.token_ids)) == ("", "ab", [a, EOS, b])


def test_a_special_token_that_is_shown_is_text(tokenizer: Tokenizer) -> None:
    ids = [*ids_of(tokenizer, "yes"), EOS]
    last = feed(state(tokenizer, stop="s<eos>", skip_special_tokens=False), ids)[-1]
    assert (last.text, last.stop_reason) == ("ye", "s<eos>")


def test_text_goes_on_where_the_prompt_ends(tokenizer: Tokenizer) -> None:
    """A character that the prompt begins is the completion's."""
    first, second = ids_of(tokenizer, "é")
    request = state(tokenizer, prompt_token_ids=(first,))
    assert feed(request, [second], finish_reason="length")[-1].text == "é"


# --- what each output holds ------------------------------------------------------------


@settings(deadline=None)
@given(
    text=st.text("abé🎈 xy", max_size=30),
    sizes=st.lists(st.integers(0, 5), min_size=1),
    stop=st.sampled_from([None, "xy", "é🎈", "x"]),
    logprobs=st.booleans(),
    looks=st.lists(st.booleans(), min_size=1),
)
def test_deltas_make_the_whole(
    tokenizer: Tokenizer,
    text: str,
    sizes: list[int],
    stop: str | None,
    logprobs: bool,
    looks: list[bool],
) -> None:
    """Whatever comes together and however seldom somebody looks; nothing is reported twice."""
    ids = ids_of(tokenizer, text)
    params: dict[str, Any] = {"stop": stop, "logprobs": 0 if logprobs else None}
    whole, parts = (
        state(tokenizer, max_tokens=1000, output_kind=kind, **params)
        for kind in (RequestOutputKind.CUMULATIVE, RequestOutputKind.DELTA)
    )
    deltas, at = [], 0
    for size, look in zip(itertools.cycle(sizes), itertools.cycle(looks), strict=False):
        new = tuple(ids[at : at + max(size, 1)])
        at += len(new)
        update = RequestUpdate(
            "r",
            new,
            tuple(TokenLogprobs(-float(i), 1, (), ()) for i in new) if logprobs else (),
            finish_reason="length" if at >= len(ids) else None,
        )
        assert whole.apply(update) == parts.apply(update)
        if look or parts.finished:
            deltas.append(parts.output().outputs[0])
            cumulative = whole.output().outputs[0]
            assert "".join(d.text for d in deltas) == cumulative.text
            assert [i for d in deltas for i in d.token_ids] == list(cumulative.token_ids)
        if parts.finished:
            break
    if logprobs:
        assert [e for d in deltas for e in d.logprobs or ()] == list(cumulative.logprobs or ())
        assert all(len(d.logprobs or ()) == len(d.token_ids) for d in deltas)
        assert deltas[-1].cumulative_logprob == cumulative.cumulative_logprob
    assert [d.finish_reason for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == cumulative.finish_reason


def test_of_several_answers_a_delta_has_those_with_news(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, n=2, output_kind=RequestOutputKind.DELTA)
    a, b = ids_of(tokenizer, "ab")
    seen = []
    for update in (
        RequestUpdate("r#1", (a, b)),
        RequestUpdate("r#0", (a,), finish_reason="length"),
        RequestUpdate("r#1", (), finish_reason="abort"),
    ):
        request.apply(update)
        output = request.output()
        seen.append([(o.index, o.text, o.finish_reason) for o in output.outputs])
    assert seen == [[(1, "ab", None)], [(0, "a", "length")], [(1, "", "abort")]]
    assert output.finished


def test_prompt_logprobs_come_with_the_first_delta(tokenizer: Tokenizer) -> None:
    found = TokenLogprobs(-0.5, 1, (), ())
    seen = []
    kinds = (RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE)
    for kind in kinds:
        request = state(tokenizer, prompt_logprobs=0, output_kind=kind)
        request.apply(RequestUpdate("r", prompt_logprobs=((1, found),)))
        seen.append([request.output().prompt_logprobs])
        for _ in range(2):
            request.apply(RequestUpdate("r", (5,)))
            seen[-1].append(request.output().prompt_logprobs)
    [deltas, cumulative] = seen
    assert deltas == [None, cumulative[0], None]
    assert cumulative[0] is cumulative[1] is cumulative[2], "not made again for each output"
    assert cumulative[0][0] is None
    assert cumulative[0][1][2].logprob == -0.5


def test_an_output_is_unchanged_by_what_comes_later(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, logprobs=0)
    entries = tuple(TokenLogprobs(-0.5, 1, (), ()) for _ in range(3))
    request.apply(RequestUpdate("r", (5, 6), entries[:2]))
    early = request.output().outputs[0]
    request.apply(RequestUpdate("r", (7,), entries[2:], finish_reason="length"))
    late = request.output().outputs[0]
    assert early.token_ids == (5, 6)
    assert early.logprobs is not None
    assert len(early.logprobs) == 2
    assert late.token_ids == (5, 6, 7)
    assert isinstance(late.token_ids, tuple)


def test_only_the_end_is_wanted(tokenizer: Tokenizer) -> None:
    assert state(tokenizer, output_kind=RequestOutputKind.FINAL_ONLY).only_final
    assert not state(tokenizer).only_final


# --- log-probabilities, several answers, metrics ---------------------------------------


def test_logprobs_name_the_chosen_token_and_the_best(tokenizer: Tokenizer) -> None:
    a, b, c = ids_of(tokenizer, "abc")
    request = state(tokenizer, logprobs=2)
    entries = (
        TokenLogprobs(-0.1, 1, (a, b), (-0.1, -2.0)),
        TokenLogprobs(-5.0, 9, (a, b), (-0.2, -1.0)),
    )
    request.apply(RequestUpdate("r", (a, c), entries, finish_reason="length"))
    output = request.output().outputs[0]
    assert output.logprobs is not None
    first, second = output.logprobs
    assert {k: (v.logprob, v.rank, v.decoded_token) for k, v in first.items()} == {
        a: (-0.1, 1, "a"),
        b: (-2.0, 2, "b"),
    }
    assert (second[c].logprob, second[c].rank, second[c].decoded_token) == (-5.0, 9, "c")
    assert len(second) == 3
    assert output.cumulative_logprob == pytest.approx(-5.1)
    assert state(tokenizer).output().outputs[0].logprobs is None


def test_n_answers_end_one_by_one(tokenizer: Tokenizer) -> None:
    request = state(tokenizer, n=3, stop="x")
    assert request.child_ids == ("r#0", "r#1", "r#2")
    a, x = ids_of(tokenizer, "ax")
    assert request.apply(RequestUpdate("r#2", (a, x))) == ["r#2"]
    request.apply(RequestUpdate("r#0", (a,), finish_reason="length", num_preemptions=2))
    assert not request.finished
    request.apply(RequestUpdate("r#1", (a, a), finish_reason="abort", num_cached_tokens=5))
    output = request.output()
    assert request.finished
    assert output.finished
    assert [o.finish_reason for o in output.outputs] == ["length", "abort", "stop"]
    assert [o.text for o in output.outputs] == ["a", "aa", "a"]
    assert output.metrics.num_preemptions == 2
    assert output.metrics.finished_s is not None


@pytest.mark.parametrize(
    ("name", "first", "then"),
    [
        ("num_preemptions", 0, 1),
        ("num_encoder_hits", 0, 2),
        ("num_encoded_items", 0, 3),
        ("first_scheduled_s", None, 1.5),
    ],
)
def test_metrics_follow_what_changes_beside_the_tokens(
    tokenizer: Tokenizer, name: str, first: Any, then: Any
) -> None:
    request = state(tokenizer, n=2)
    [a] = ids_of(tokenizer, "a")
    for child in request.child_ids:
        request.apply(RequestUpdate(child, (a,), num_cached_tokens=1, **{name: first}))
    before = request.output().metrics
    assert getattr(before, name) == first
    assert (before.num_cached_tokens, before.finished_s) == (1, None)
    assert before.first_token_s is not None
    request.apply(RequestUpdate("r#1", (a,), num_cached_tokens=1, **{name: then}))
    assert getattr(request.output().metrics, name) == then
    request.apply(RequestUpdate("r#1", (a,), num_cached_tokens=1, **{name: then}))
    assert request.output().metrics is request.output().metrics, "nothing else has changed"


def test_bad_words_wherever_they_stand(
    tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    for word in ("no", " no", "  no"):
        found = bad_word_ids(tokenizer, [word])
        assert sorted(tokenizer.decode(ids) for ids in found) == [" no", "no"]
    folder = tmp_path_factory.mktemp("llama")
    llama = Tokenizer.load(write_llama_like(folder))
    tokens = {tuple(map(llama.id_to_token, ids)) for ids in bad_word_ids(llama, ["and", " "])}
    assert {("▁and",), ("an", "d"), ("▁",)} <= tokens, "a word, its bare spelling, a space alone"


@pytest.mark.parametrize("write", [write_llama_like, write_qwen_like])
def test_bad_words_as_transformers_and_vllm_spell_them(write: Any, tmp_path: Path) -> None:
    """What either forbids is forbidden: the word as a text, and behind a space."""
    from transformers import AutoTokenizer

    write(tmp_path)
    ours, oracle = Tokenizer.load(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for word in ("dog", "lazy dog", "Zx", "é"):
        spelt = [word, " " + word]
        expected = {tuple(oracle(s, add_special_tokens=False).input_ids) for s in spelt}
        assert expected <= set(bad_word_ids(ours, [word]))
