"""Text on the CPU: the engine against transformers' ``generate`` in the same process and dtype.

    python benchmarks/offline.py [--repeats 5] [--only "16 requests"] [--json FILE]

SmolLM2-135M-Instruct (real weights, ``checkpoints/smollm2.py``) in bfloat16, torch's own number of
threads, greedy, a fixed number of new tokens. Prompts are token ids, new ones each time, so that
no cache helps. Ours and theirs take turns within a repeat: what else the machine does meanwhile
hits both. Whoever's turn it is runs alone: the engine is opened for it and closed behind it, and
``generate`` runs in a thread that ends with its turn, because two sets of OpenMP's helpers in one
process slow each other down even while one of them is idle. Printed: tokens a second (the median of
the repeats), and the median, least and greatest ratio of the two within a repeat.

    decode, 1 and 16 requests   new tokens over all of the time, prompts of 16 tokens included
    prefill                     tokens of one prompt over the time to its first token
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from checkpoints.smollm2 import checkpoint
from transformers import AutoModelForCausalLM

from sensorium import LLM, SamplingParams

Prompts = list[list[int]]


@dataclass(frozen=True, slots=True)
class Load:
    """What is measured.

    Attributes:
        asked: the ratio to transformers that the engine should reach.
    """

    name: str
    num_prompts: int
    prompt_len: int
    new_tokens: int
    asked: float

    @property
    def num_counted(self) -> int:
        """Tokens that the rate counts."""
        counted = self.new_tokens if self.new_tokens > 1 else self.prompt_len
        return self.num_prompts * counted


LOADS = (
    Load("decode, 1 request", 1, 16, 96, 2.0),
    Load("decode, 16 requests", 16, 16, 64, 4.0),
    Load("prefill, 1 × 512", 1, 512, 1, 1.0),
    Load("prefill, 1 × 2048", 1, 2048, 1, 1.0),
)


@dataclass(frozen=True, slots=True)
class Line:
    """Tokens a second of each repeat."""

    load: Load
    ours: tuple[float, ...]
    theirs: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """Ours to theirs, repeat by repeat."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]


class Ours:
    """The engine as a script uses it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def turn(self, warm: Prompts, prompts: Prompts, new_tokens: int) -> tuple[float, int]:
        """Seconds, and how many tokens came."""
        with LLM(str(self.folder), device="cpu", dtype="bfloat16") as llm:
            self._run(llm, warm, new_tokens)
            start = time.perf_counter()
            came = self._run(llm, prompts, new_tokens)
            return time.perf_counter() - start, came

    def _run(self, llm: LLM, prompts: Prompts, new_tokens: int) -> int:
        sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        given = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = llm.generate(given, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)


class Theirs:
    """``generate`` with all prompts as one batch."""

    def __init__(self, folder: Path) -> None:
        with ThreadPoolExecutor(1) as thread:
            load = AutoModelForCausalLM.from_pretrained
            self.model = thread.submit(load, folder, dtype=torch.bfloat16).result().eval()

    def turn(self, warm: Prompts, prompts: Prompts, new_tokens: int) -> tuple[float, int]:
        """As ``Ours.turn``."""

        def run() -> tuple[float, int]:
            self._run(warm, new_tokens)
            start = time.perf_counter()
            came = self._run(prompts, new_tokens)
            return time.perf_counter() - start, came

        with ThreadPoolExecutor(1) as thread:
            return thread.submit(run).result()

    def _run(self, prompts: Prompts, new_tokens: int) -> int:
        ids = torch.tensor(prompts)
        with torch.inference_mode():
            out = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
            )
        return int(out[:, ids.shape[1] :].numel())


def measure(load: Load, ours: Ours, theirs: Theirs, repeats: int) -> Line:
    """Both in turn, each repeat with prompts of its own, others before them to warm up."""
    draw = random.Random(0)
    rates: tuple[list[float], list[float]] = ([], [])

    def drawn() -> Prompts:
        lengths = [load.prompt_len] * load.num_prompts
        return [[draw.randrange(100, 40000) for _ in range(length)] for length in lengths]

    for _ in range(repeats):
        warm, prompts = drawn(), drawn()
        for runner, kept in ((ours, rates[0]), (theirs, rates[1])):
            elapsed_s, came = runner.turn(warm, prompts, load.new_tokens)
            if came != load.num_prompts * load.new_tokens:
                raise SystemExit(f"{load.name}: {came} tokens came, not all")
            kept.append(load.num_counted / elapsed_s)
    return Line(load, tuple(rates[0]), tuple(rates[1]))


def table(lines: Sequence[Line]) -> Iterator[str]:
    """Markdown."""
    yield "| tokens/s | engine | transformers | ratio | least | greatest | asked |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for line in lines:
        ratios = line.ratios
        ours, theirs = statistics.median(line.ours), statistics.median(line.theirs)
        yield (
            f"| {line.load.name} | {ours:.1f} | {theirs:.1f} | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} | {max(ratios):.2f} | {line.load.asked:g} |"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="loads whose name holds this")
    parser.add_argument("--json", type=Path, help="keeps every figure")
    options = parser.parse_args()
    loads = [load for load in LOADS if options.only in load.name]
    if not loads:
        parser.error(f"no load has {options.only!r} in {[load.name for load in LOADS]}")
    folder = checkpoint()
    theirs = Theirs(folder)
    ours = Ours(folder)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, bfloat16", flush=True)
    lines = [measure(load, ours, theirs, options.repeats) for load in loads]
    print("\n".join(table(lines)))
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")


if __name__ == "__main__":
    main()
