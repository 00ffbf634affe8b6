"""Decoding with a grammar against decoding without, on the CPU.

    python benchmarks/structured.py [--repeats 5] [--json FILE]

SmolLM2-135M-Instruct (real weights, ``checkpoints/smollm2.py``) in bfloat16, 16 sequences at once,
greedy. Three engines answer in turn within a repeat, each alone in the process:

    free      no grammar, a fixed number of new tokens
    masked    a JSON schema, every token sampled under its mask
    forced    the same schema; tokens that it leaves no choice of are not sampled

The schema has fixed names around values of a fixed length, so that answers end at about one time
and no engine is timed while a last sequence goes on alone. Printed: tokens of the answers a second
(the median of the repeats), and the ratio to ``free`` within a repeat (median, least and greatest).
Behind them the host's part alone: compiling, and a step's masks.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from checkpoints.smollm2 import checkpoint

from sensorium import LLM, SamplingParams, StructuredOutputs
from sensorium.grammar import Grammars, MaskMaker
from sensorium.tokenizer import Tokenizer

NUM_SEQUENCES = 16
NUM_RECORDS = 3
RECORD = {
    "type": "object",
    "properties": {
        "measurement_identifier": {"type": "string", "pattern": "^[a-z]{4} [a-z]{5}$"},
        "temperature_celsius": {"type": "integer", "minimum": 100, "maximum": 999},
        "is_within_tolerance": {"type": "boolean"},
    },
    "required": ["measurement_identifier", "temperature_celsius", "is_within_tolerance"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "array",
    "items": RECORD,
    "minItems": NUM_RECORDS,
    "maxItems": NUM_RECORDS,
}
FORM = StructuredOutputs(json=SCHEMA, disable_any_whitespace=True)
PROMPT = "List measurements as JSON."
ENGINES = ("free", "masked", "forced")


@dataclass(frozen=True, slots=True)
class Line:
    """Tokens a second of each repeat."""

    name: str
    rates: list[float]


def turn(folder: Path, name: str, seed: int, new_tokens: int) -> tuple[float, int]:
    """Seconds, and how many tokens came, of one engine's turn."""
    form = None if name == "free" else FORM

    def sampling(most: int) -> SamplingParams:
        return SamplingParams(
            temperature=0.0, max_tokens=most, ignore_eos=form is None, structured_outputs=form
        )

    options = {"structured_outputs_forcing": name == "forced"}
    with LLM(str(folder), device="cpu", dtype="bfloat16", **options) as llm:
        for part, most in (("warm", 8), ("timed", new_tokens if form is None else 1024)):
            prompts = [f"{part} {seed} {i}. {PROMPT}" for i in range(NUM_SEQUENCES)]
            start = time.perf_counter()
            outputs = llm.generate(prompts, sampling(most), use_tqdm=False)
            seconds = time.perf_counter() - start
        came = sum(len(output.outputs[0].token_ids) for output in outputs)
        if form is not None:
            for output in outputs:
                assert len(json.loads(output.outputs[0].text)) == NUM_RECORDS
        return seconds, came


def measure(folder: Path, repeats: int) -> list[Line]:
    """All in turn, each repeat with prompts of its own."""
    lines = [Line(name, []) for name in ENGINES]
    _, came = turn(folder, "masked", -1, 1)
    new_tokens = round(came / NUM_SEQUENCES)
    for repeat in range(repeats):
        for line in lines:
            seconds, came = turn(folder, line.name, repeat, new_tokens)
            line.rates.append(came / seconds)
    return lines


def host_part(folder: Path) -> dict[str, float]:
    """Milliseconds of what the host does for a grammar, each the median of many."""
    tokenizer = Tokenizer.load(folder)
    eos = tokenizer.eos_token_id
    assert eos is not None
    ends = frozenset([eos])
    grammars = Grammars(tokenizer, tokenizer.vocab_size)
    start = time.perf_counter()
    grammars.vocabulary(ends)
    found = {"vocabulary": 1e3 * (time.perf_counter() - start)}
    compiling = []
    for i in range(20):
        schema = {**SCHEMA, "description": str(i)}
        start = time.perf_counter()
        grammar = grammars.compile(StructuredOutputs(json=schema), ends)
        compiling.append(1e3 * (time.perf_counter() - start))
    found["compile"] = statistics.median(compiling)
    maker = MaskMaker(1)
    matchers = [grammar.matcher() for _ in range(NUM_SEQUENCES)]
    words = np.zeros((NUM_SEQUENCES, -(-tokenizer.vocab_size // 32)), np.int32)
    record = {
        "measurement_identifier": "some words",
        "temperature_celsius": 123,
        "is_within_tolerance": True,
    }
    masks, accepting = [], []
    for token_id in tokenizer.encode(json.dumps([record] * NUM_RECORDS)):
        start = time.perf_counter()
        maker.fill(matchers, words)
        masks.append(1e3 * (time.perf_counter() - start))
        start = time.perf_counter()
        for matcher in matchers:
            matcher.accept([token_id])
            matcher.forced(1024)
        accepting.append(1e3 * (time.perf_counter() - start))
    found[f"masks of {NUM_SEQUENCES}"] = statistics.median(masks)
    found[f"tokens of {NUM_SEQUENCES}"] = statistics.median(accepting)
    return found


def report(lines: list[Line], host: dict[str, float]) -> None:
    """The table."""
    print(f"{'':10}{'tokens/s':>10}{'ratio':>8}{'least':>8}{'most':>8}")
    for line in lines:
        ratios = [a / b for a, b in zip(line.rates, lines[0].rates, strict=True)]
        numbers = (statistics.median(ratios), min(ratios), max(ratios))
        rate = statistics.median(line.rates)
        print(f"{line.name:10}{rate:10.0f}" + "".join(f"{number:8.2f}" for number in numbers))
    print()
    for name, milliseconds in host.items():
        print(f"{name:16}{milliseconds:10.3f} ms")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="keep every figure in this file")
    given = parser.parse_args()
    folder = checkpoint()
    lines = measure(folder, given.repeats)
    host = host_part(folder)
    report(lines, host)
    if given.json is not None:
        kept = {"lines": [asdict(line) for line in lines], "host_ms": host}
        given.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
