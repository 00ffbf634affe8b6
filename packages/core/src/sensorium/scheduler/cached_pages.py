"""``CachedPages``: how sequences find pages that hold the beginning of their prompt already."""

from __future__ import annotations

from collections.abc import Iterable

from sensorium.scheduler.config import SchedulerConfig
from sensorium.scheduler.page_pool import PagePool
from sensorium.scheduler.sequence import Sequence


class CachedPages:
    """The prefix cache, as sequences use it.

    Attributes:
        num_queries, num_hits: prompt tokens looked up at first admissions, and those found.
    """

    def __init__(self, pool: PagePool, config: SchedulerConfig) -> None:
        self._pool = pool
        self._page_size = config.page_size
        self._is_on = config.prefix_caching
        self.num_queries = 0
        self.num_hits = 0

    def of(self, sequence: Sequence) -> list[int]:
        """Pages that hold the beginning of its prompt already."""
        if not self._reads(sequence):
            return []
        num_full = len(sequence.request.token_ids) // self._page_size
        found = self._pool.match(sequence.page_keys(num_full))
        return found[: sequence.num_reusable_pages(len(found))]

    def next_is_coming(self, sequence: Sequence, running: Iterable[Sequence]) -> bool:
        """Whether a running sequence computes the first page of its prompt that the cache lacks.

        So the answers to one prompt, and equal prompts that come together, prefill it once.
        """
        if not self._reads(sequence):
            return False
        keys = sequence.page_keys(len(sequence.request.token_ids) // self._page_size)
        num_found = len(self._pool.match(keys))
        if num_found == len(keys):
            return False
        return any(s.will_register(num_found, keys[num_found]) for s in running)

    def count(self, sequence: Sequence) -> None:
        """Counts what was found for a sequence that runs for the first time."""
        sequence.num_cached_tokens = sequence.num_computed
        self.num_queries += len(sequence.request.token_ids)
        self.num_hits += sequence.num_computed

    def register(self, sequence: Sequence, stop: int) -> None:
        """Offers the pages that are full once its tokens up to ``stop`` are computed."""
        num_full = stop // self._page_size
        if self._is_on and num_full > sequence.num_registered:
            keys = sequence.page_keys(num_full)
            for i in range(sequence.num_registered, num_full):
                self._pool.register(sequence.pages[i], keys[i])
            sequence.num_registered = num_full

    def _reads(self, sequence: Sequence) -> bool:
        """Whether it may begin behind cached pages; not if all its prompt's logits are wanted."""
        sampling = sequence.request.sampling
        return self._is_on and sampling.prompt_logprobs is None
