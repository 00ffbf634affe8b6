"""A server under load, on loopback: errors, capacity, the event loop's lag, first tokens, CPU time.

    python benchmarks/serve.py [--seconds 20] [--only burst,half,cpu] [--json FILE]
    python benchmarks/serve.py --model qwen25vl-3b                  on a GPU: crowds by default

    burst   200 streaming chats at once, each with a 224×224 picture of its own
    half    capacity, by a crowd that always has 32 chats open; then, at half of it, a chat with a
            new 448×448 picture every so often: the event loop's lag, and the first token of
            text-only requests beside that load and without it
    cpu     CPU time of the answering process for 1,000 streamed tokens of text, and what of it
            ``AsyncEngine`` alone takes; throughput of both
    crowds  1, 16, 64 and 256 chats at once (``--crowds``) with pictures of their own, the same
            picture, and pictures by uuid alone; at the last, ``LLM.chat`` with the same work
            beside it
    media   pictures a second and the answering process's busy cores, by ``--media-threads``: new
            files, one token each, from a server of its own for each number of threads

The server, its engine and the clients are processes of their own. The clients have a bounded number
of connections and of requests, and any error in an answer ends the benchmark. ``--model`` is one of
``checkpoints/shapes.py``, whose weights are drawn, a folder, or tiny-vl, which is the default.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checkpoints.shapes import SHAPES, shape
from load import asks, engines
from load.client import Ask, Clients, Seen
from load.server import Server, quantile_edge, running

#: What is measured once the server has ended.
Later = Callable[[], None]
#: More chats a second than are made for the measure of capacity.
MOST_PER_S = 60
CROWDS = (1, 16, 64, 256)
#: Chats that are open at once while media threads are measured.
MEDIA_CROWD = 32
#: Options of the engine, in the server and without it.
OPTIONS = {"max_model_len": 2048, "max_num_seqs": 256}
DUMMY = {"load_format": "dummy", "dtype": "bfloat16", "max_num_batched_tokens": 8192}


@dataclass
class Bench:
    """One server with its clients.

    Attributes:
        clients: processes that load it; everything they are given was made beforehand.
        num_tokens: of an answer.
        crowds: numbers of chats at once.
        media_threads: numbers of threads.
        rows: what was shown.
    """

    server: Server
    clients: Clients
    model: str
    options: Mapping[str, Any]
    seconds: float
    num_tokens: int
    crowds: Sequence[int]
    media_threads: Sequence[int]
    rows: dict[str, str] = field(default_factory=dict)
    serials: Iterator[int] = field(default_factory=itertools.count)

    def show(self, what: str, figure: str) -> None:
        """One line of the table."""
        self.rows[what] = figure
        print(f"| {what} | {figure} |", flush=True)

    def load(self, work: Sequence[Ask], at_once: int, until_s: float = math.inf) -> list[Seen]:
        """Sends the requests, none after ``until_s``; none may fail."""
        return self.load_at(self.server.url, work, at_once, until_s)

    def load_at(
        self, url: str, work: Sequence[Ask], at_once: int, until_s: float = math.inf
    ) -> list[Seen]:
        """The same with any server."""
        seen = self.clients.drive(url, work, at_once, until_s)
        if errors := [entry.error for entry in seen if entry.error]:
            raise SystemExit(f"{len(errors)} of {len(seen)} requests failed: {errors[0]}")
        return seen

    def conversation(self, part: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """One that no cache has seen."""
        return asks.messages(next(self.serials), part)

    def chat(self, side: int = 0, *, num_tokens: int = 0, at_s: float = 0.0) -> Ask:
        """A new chat, with a new picture of this side or with none."""
        serial = next(self.serials)
        part = asks.picture_part(serial, side=side) if side else None
        return asks.ask(asks.messages(serial, part), num_tokens or self.num_tokens, at_s)

    def alone(self, work: Callable[..., Any], *given: Any) -> Any:
        """What another process makes of the model without a server."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            return pool.submit(work, self.model, self.options, *given).result()


def took_s(seen: Sequence[Seen]) -> float:
    """From the first request to the last byte."""
    return max(entry.ended_s for entry in seen) - min(entry.begun_s for entry in seen)


def burst(bench: Bench) -> Later | None:
    """200 chats at once."""
    work = [bench.chat(224) for _ in range(200)]
    seen = bench.load(work, len(work))
    tokens = sum(entry.num_tokens for entry in seen)
    bench.show("200 chats with pictures at once: errors", "0")
    bench.show("… tokens/s", f"{tokens / took_s(seen):.0f}")
    bench.show("… first token, median", f"{statistics.median(e.ttft_s for e in seen):.2f} s")
    return None


def half(bench: Bench) -> Later | None:
    """At half the capacity."""
    bench.load([bench.chat(448) for _ in range(8)], 8)
    work = [bench.chat(448) for _ in range(math.ceil(MOST_PER_S * bench.seconds))]
    seen = bench.load(work, 32, bench.seconds)
    rate = len(seen) / took_s(seen)
    bench.show("capacity, chats with a new 448×448 picture", f"{rate:.1f}/s")

    def texts() -> list[Ask]:
        count = max(8, int(2 * bench.seconds))
        every_s = bench.seconds / count
        return [bench.chat(num_tokens=8, at_s=every_s * i) for i in range(count)]

    def first_ms(seen: Sequence[Seen]) -> float:
        return 1e3 * statistics.median(entry.ttft_s for entry in seen)

    quiet_ms = first_ms(bench.load(texts(), 64))
    every_s = 2 / rate
    count = int(bench.seconds / every_s)
    pictures = [bench.chat(448, at_s=every_s * i) for i in range(count)]
    before = bench.server.buckets("event_loop_lag_seconds")
    seen = bench.load([*(beside := texts()), *pictures], 512)
    after = bench.server.buckets("event_loop_lag_seconds")
    loaded_ms = first_ms(seen[: len(beside)])
    lag_s = quantile_edge(before, after, 0.99)
    bench.show("event loop's lag at half of it, 99th percentile", f"at most {1e3 * lag_s:g} ms")
    bench.show("text's first token without pictures, median", f"{quiet_ms:.0f} ms")
    bench.show("… beside pictures at half the capacity", f"{loaded_ms:.0f} ms")
    bench.show("… ratio", f"{loaded_ms / quiet_ms:.2f}")
    return None


def cpu(bench: Bench) -> Later:
    """CPU time a token, with HTTP and without."""
    crowd, repeats = 64, 3
    num_tokens = max(128, bench.num_tokens)
    batches = [[bench.conversation() for _ in range(crowd)] for _ in range(repeats + 1)]
    num_k = crowd * num_tokens / 1e3
    spent, took = [], []
    for batch in batches:
        before_s = bench.server.cpu_s()
        seen = bench.load([asks.ask(entry, num_tokens) for entry in batch], crowd)
        spent.append((bench.server.cpu_s() - before_s) / num_k)
        took.append(took_s(seen))
    with_s = statistics.median(spent[1:])
    bench.show("answering process, CPU for 1,000 streamed tokens", f"{1e3 * with_s:.0f} ms")

    def later() -> None:
        alone = bench.alone(engines.stream_all, batches, num_tokens)
        own_s = statistics.median(spent_s for _, spent_s in alone[1:]) / num_k
        bench.show("… of it AsyncEngine's own", f"{1e3 * own_s:.0f} ms")
        bench.show("… HTTP's", f"{1e3 * (with_s - own_s):.0f} ms")
        ratio = statistics.median(s for s, _ in alone[1:]) / statistics.median(took[1:])
        bench.show("throughput with HTTP, of AsyncEngine's", f"{ratio:.2f}")

    return later


def crowds(bench: Bench) -> Later:
    """Rates and latencies by the number of chats at once."""
    kept = {seed: asks.picture_part(seed, named=True) for seed in range(10**6, 10**6 + 16)}
    bench.load([asks.ask(bench.conversation(part), 1) for part in kept.values()], 16)
    parts: dict[str, Callable[[int], dict[str, Any]]] = {
        "by uuid alone": lambda i: {**kept[10**6 + i % len(kept)], "image_url": None},
        "one picture": lambda _: kept[10**6],
        "pictures of their own": lambda _: asks.picture_part(next(bench.serials)),
    }
    for crowd, (name, part) in itertools.product(bench.crowds, parts.items()):
        num = max(4, 2 * crowd)
        batches = [[bench.conversation(part(i)) for i in range(num)] for _ in range(2)]
        works = [[asks.ask(entry, bench.num_tokens) for entry in batch] for batch in batches]
        seen = [bench.load(work, crowd) for work in works][-1]
        rate = len(seen) / took_s(seen)
        ttft_ms = 1e3 * statistics.median(entry.ttft_s for entry in seen)
        gap_ms = 1e3 * statistics.median(gap for entry in seen for gap in entry.gaps_s)
        figures = f"{rate:.2f} requests/s, first token {ttft_ms:.0f} ms, next {gap_ms:.1f} ms"
        bench.show(f"{crowd} at once, {name}", figures)

    def later() -> None:
        seconds = bench.alone(engines.answer_all, batches, bench.num_tokens)
        own_rate = len(batches[-1]) / seconds[-1]
        bench.show(f"LLM.chat, {name}", f"{own_rate:.2f} requests/s")
        bench.show(f"{crowd} at once over HTTP, of that", f"{rate / own_rate:.2f}")

    return later


def media(bench: Bench) -> Later:
    """What media threads make of it."""

    def figures(server: Server, name: str) -> str:
        most = asks.MOST_FILES[name]
        work = [asks.file_ask(name, next(bench.serials)) for _ in range(MEDIA_CROWD + most)]
        bench.load_at(server.url, work[:MEDIA_CROWD], MEDIA_CROWD)
        before_s = server.cpu_s()
        seen = bench.load_at(server.url, work[MEDIA_CROWD:], MEDIA_CROWD, bench.seconds / 4)
        cores = (server.cpu_s() - before_s) / took_s(seen)
        return f"{len(seen) / took_s(seen):.0f}/s, {cores:.1f} cores busy"

    def later() -> None:
        flags = flags_of(bench.options)
        for threads in bench.media_threads:
            with running(bench.model, [*flags, "--media-threads", str(threads)]) as server:
                for name in asks.MOST_FILES:
                    bench.show(f"{name}, {threads} media threads", figures(server, name))

    return later


MEASURES = {"media": media, "burst": burst, "half": half, "cpu": cpu, "crowds": crowds}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny-vl")
    parser.add_argument("--only", help=f"of {', '.join(MEASURES)}, with commas")
    parser.add_argument("--seconds", type=float, default=20.0, help="that steady loads go on")
    parser.add_argument("--tokens", type=int, help="of an answer")
    parser.add_argument("--options", default="{}", help="JSON: more options of the engine")
    parser.add_argument("--crowds", default=",".join(map(str, CROWDS)), help="with commas")
    parser.add_argument("--threads", help="of media, with commas; powers of 4 up to the cores")
    parser.add_argument("--json", type=Path, help="keeps the table")
    given = parser.parse_args()
    is_shape = given.model in SHAPES
    wanted = (given.only or ("crowds" if is_shape else "burst,half,cpu")).split(",")
    if unknown := set(wanted) - set(MEASURES):
        parser.error(f"there is no measure {', '.join(unknown)}; there are {', '.join(MEASURES)}")
    model = str(shape(given.model)) if is_shape else given.model
    options = OPTIONS | (DUMMY if is_shape else {}) | json.loads(given.options)
    sizes = [int(text) for text in given.crowds.split(",")]
    cores = len(os.sched_getaffinity(0))
    powers = [4**i for i in range(8) if 4**i <= cores]
    threads = [int(text) for text in given.threads.split(",")] if given.threads else powers
    print("| measure | figure |\n| --- | ---: |", flush=True)
    with Clients() as clients:
        with running(model, flags_of(options)) as server:
            num_tokens = given.tokens or (128 if is_shape else 32)
            of_server = (server, clients, model, options, given.seconds, num_tokens)
            bench = Bench(*of_server, crowds=sizes, media_threads=threads)
            later = [MEASURES[name](bench) for name in wanted]
        # An accelerator holds one engine at a time.
        for finish in later:
            if finish is not None:
                finish()
    if given.json:
        kept = {"model": given.model, "cores": cores, "rows": bench.rows}
        given.json.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")


def flags_of(options: Mapping[str, Any]) -> list[str]:
    """The server's flags for an engine's options."""
    pairs = (("--" + name.replace("_", "-"), str(value)) for name, value in options.items())
    return list(itertools.chain.from_iterable(pairs))


if __name__ == "__main__":
    main()
