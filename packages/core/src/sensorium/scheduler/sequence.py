"""``Sequence``: a request on its way through the scheduler, the one thing here that changes.

    token_ids   [ prompt …………………………………… ][ generated … ][ pending ]
                0 ……… num_computed ………………………………………………… num_tokens
                │ in the KV cache │  still to be computed; then one more token is sampled

A step is planned while the one before it still runs. What that one computes counts as computed, and
the token that it samples as there, though nobody here knows yet which one it is.

Knows its own progress and nothing of other sequences, of the pool or of the book.
"""

from __future__ import annotations

from sensorium.scheduler.config import SchedulerConfig
from sensorium.scheduler.layout import ItemUse, Layout
from sensorium.scheduler.prefix import extend_page_keys
from sensorium.types import (
    PENDING,
    Chunk,
    EngineRequest,
    Pooled,
    PromptLogprobs,
    RequestUpdate,
    SampledToken,
)


class Sequence:
    """The mutable state of one request.

    Attributes:
        request: as it came.
        arrival: its place in the order of arrival.
        layout: where its items are needed.
        token_ids: prompt and generated tokens, as far as they are known.
        num_pending: tokens behind them that steps still running sample.
        num_computed: tokens whose keys and values lie in its pages, or will once the steps that
            are running are done.
        pages: its page table.
        num_registered: leading pages that were offered to the prefix index.
        pins: indices of the items whose embeddings it holds.
        num_lives: how often it got its first page.
        is_running: it holds pages and may be scheduled.
        was_admitted: it is running or was preempted.
        is_started: the runner knows it.
        is_finished: it is done; nothing may change any more.
    """

    __slots__ = (
        "_max_len",
        "_met_items",
        "_num_prompt",
        "_page_keys",
        "_page_size",
        "arrival",
        "first_scheduled_s",
        "is_finished",
        "is_running",
        "is_started",
        "layout",
        "num_cached_tokens",
        "num_computed",
        "num_encoded_items",
        "num_encoder_hits",
        "num_lives",
        "num_pending",
        "num_preemptions",
        "num_registered",
        "pages",
        "pins",
        "request",
        "token_ids",
        "was_admitted",
    )

    def __init__(
        self, request: EngineRequest, arrival: int, layout: Layout, config: SchedulerConfig
    ) -> None:
        self.request = request
        self.arrival = arrival
        self.layout = layout
        self.token_ids = list(request.token_ids)
        self.num_pending = 0
        self.num_computed = 0
        self.num_lives = 0
        self.pages: tuple[int, ...] = ()
        self.num_registered = 0
        self.pins: set[int] = set()
        self.is_running = False
        self.was_admitted = False
        self.is_started = False
        self.is_finished = False
        self.num_cached_tokens = 0
        self.num_encoded_items = 0
        self.num_encoder_hits = 0
        self.num_preemptions = 0
        self.first_scheduled_s: float | None = None
        self._met_items: set[int] = set()
        self._page_keys: list[bytes] = []
        self._page_size = config.page_size
        self._num_prompt = len(request.token_ids)
        # The last token is sampled but never computed, so it needs no place in a page.
        most = min(config.max_model_len, config.num_pages * config.page_size + 1)
        self._max_len = min(most, self._num_prompt + request.max_tokens)

    @property
    def request_id(self) -> str:
        """Names it."""
        return self.request.request_id

    @property
    def rank(self) -> tuple[int, int]:
        """Its place among all sequences: by priority, then by arrival."""
        return self.request.priority, self.arrival

    @property
    def num_tokens(self) -> int:
        """Prompt and generated tokens, pending ones included."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_generated(self) -> int:
        """New tokens so far, pending ones included."""
        return self.num_tokens - self._num_prompt

    @property
    def must_wait(self) -> bool:
        """Whether there is nothing to compute before steps that are running are done: a pending
        token is the last one, or what may be sampled next depends on which one it is."""
        if self.request.embeds:
            return self.num_computed == self.num_tokens
        if not self.num_pending:
            return False
        return bool(self.request.bad_word_ids) or self.num_tokens >= self._max_len

    @property
    def is_prefilling(self) -> bool:
        """Whether it has more to compute than the token it sampled last."""
        num_tokens = self.num_tokens
        return num_tokens == self._num_prompt or self.num_computed < num_tokens - 1

    @property
    def num_missing_pages(self) -> int:
        """Pages it lacks to hold all its tokens."""
        return -(-self.num_tokens // self._page_size) - len(self.pages)

    def page_keys(self, num_pages: int) -> list[bytes]:
        """The keys of its first ``num_pages`` pages, which must be full."""
        extend_page_keys(self._page_keys, self.request, self.token_ids, num_pages, self._page_size)
        return self._page_keys[:num_pages]

    def will_register(self, index: int, key: bytes) -> bool:
        """Whether it is about to offer a page of this key, at this place of its prompt."""
        num_full = len(self.request.token_ids) // self._page_size
        return self.num_registered <= index < num_full and self.page_keys(num_full)[index] == key

    def num_reusable_pages(self, num_found: int) -> int:
        """How many of ``num_found`` leading pages from the prefix cache can be built upon.

        At least one token is left to compute, or there would be nothing to sample from. No
        atomic range is entered in its middle, which page keys rely on. And generated tokens
        are all computed again, so that the runner sees them.
        """
        num_cached = min(num_found * self._page_size, len(self.request.token_ids) - 1)
        while True:
            whole = num_cached - num_cached % self._page_size
            num_cached = self.layout.cut_before(whole)
            if num_cached == whole:
                return whole // self._page_size

    def advance(self, stop: int) -> Chunk:
        """Counts its tokens up to ``stop`` as computed; returns them as the runner gets them."""
        known = tuple(self.token_ids[self.num_computed : stop])
        num_pending = stop - self.num_computed - len(known)
        chunk = Chunk(
            request_id=self.request.request_id,
            start=self.num_computed,
            token_ids=known + (PENDING,) * num_pending,
            pages=self.pages,
            samples=stop == self.num_tokens,
        )
        self.num_computed = stop
        self.num_pending += chunk.samples and not self.request.embeds
        return chunk

    def meet_item(self, use: ItemUse, *, was_encoded: bool) -> None:
        """Counts an item found encoded or not, the first time it is needed."""
        if use.index not in self._met_items:
            self._met_items.add(use.index)
            self.num_encoder_hits += was_encoded
            self.num_encoded_items += not was_encoded

    def append(self, token_id: int) -> str | None:
        """Takes a token that was pending; returns why the sequence ends with it, or None."""
        assert self.num_pending > 0, "a token came that nobody had asked for"
        self.num_pending -= 1
        self.token_ids.append(token_id)
        num_known = len(self.token_ids)
        if self.request.max_tokens == 0:
            return "length"
        if token_id in self.request.stop_ids and self._may_stop(num_known):
            return "stop"
        return "length" if num_known >= self._max_len else None

    def _may_stop(self, num_known: int) -> bool:
        """Whether so many tokens are enough for one of them to end the answer."""
        return num_known - self._num_prompt > self.request.sampling.min_tokens

    def update(
        self,
        *,
        sampled: SampledToken | None = None,
        prompt_logprobs: PromptLogprobs = (),
        pooled: Pooled | None = None,
        finish_reason: str | None = None,
        error: str | None = None,
        lost_item: bool = False,
    ) -> RequestUpdate:
        """What the frontend is told after a step."""
        logprobs = sampled.logprobs if sampled is not None else None
        stopped = sampled is not None and finish_reason == "stop"
        return RequestUpdate(
            request_id=self.request_id,
            new_token_ids=() if sampled is None else (sampled.token_id,),
            logprobs=() if logprobs is None else (logprobs,),
            prompt_logprobs=prompt_logprobs,
            pooled=pooled,
            finish_reason=finish_reason,
            stop_id=sampled.token_id if sampled is not None and stopped else None,
            error=error,
            lost_item=lost_item,
            num_cached_tokens=self.num_cached_tokens,
            num_encoded_items=self.num_encoded_items,
            num_encoder_hits=self.num_encoder_hits,
            num_preemptions=self.num_preemptions,
            first_scheduled_s=self.first_scheduled_s,
        )
