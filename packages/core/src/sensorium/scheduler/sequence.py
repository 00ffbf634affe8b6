"""``Sequence``: the mutable state of one request in the scheduler.

    token_ids   [ prompt …………………………………… ][ generated … ][ pending ]
                0 ……… num_computed ………………………………………………… num_tokens
                │ in the KV cache │  still to be computed; then one more token is sampled

A step is planned while the step before it still runs. The tokens of that step count as computed,
and the token that it samples counts as present, though its value isn't known yet.

Tokens may also be given (``give``), where a grammar forces them; they are computed together, as a
prompt is. A given token replaces a pending one; the step that samples the pending token must choose
the same one.

A sequence knows its own progress and nothing of other sequences, of the pool or of the book.
"""

from __future__ import annotations

from collections.abc import Iterable

from sensorium.errors import EngineError, Failure
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
    SampledTokens,
    TokenLogprobs,
)


class Sequence:
    """The mutable state of one request.

    Attributes:
        request: as it came.
        arrival: its place in the order of arrival.
        layout: where its items are needed.
        token_ids: prompt and generated tokens, as far as they are known.
        num_pending: tokens behind them that steps still running sample.
        num_asked: tokens that were reported, or that rows of running steps will report.
        num_told: tokens reported to the frontend, the prompt's included.
        num_computed: tokens whose keys and values lie in its pages, or will once the steps that
            are running are done.
        pages: its page table.
        num_registered: leading pages that were offered to the prefix index.
        pins: indices of the items whose embeddings it holds.
        num_lives: how often it was admitted.
        prefill_end: how many tokens it must have computed since it got its first page to decode.
        embeds: no answer is wanted, but the prompt as a vector.
        finish_reason: why its last known token ends it, "stop" or "length"; None: it goes on.
        is_running: it holds pages and may be scheduled.
        was_admitted: it is running or was preempted.
        is_started: the runner knows it.
        is_finished: it is done; nothing may change any more.
    """

    __slots__ = (
        "_gives_logprobs",
        "_max_computed",
        "_max_len",
        "_met_items",
        "_num_prompt",
        "_page_keys",
        "_page_size",
        "arrival",
        "embeds",
        "finish_reason",
        "first_scheduled_s",
        "is_finished",
        "is_running",
        "is_started",
        "layout",
        "num_asked",
        "num_cached_tokens",
        "num_computed",
        "num_encoded_items",
        "num_encoder_hits",
        "num_lives",
        "num_pending",
        "num_preemptions",
        "num_registered",
        "num_told",
        "pages",
        "pins",
        "prefill_end",
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
        self.num_told = self.prefill_end = self._num_prompt
        # A request for no tokens never wants a row.
        self.num_asked = self._num_prompt + (request.max_tokens == 0)
        self.embeds = request.embeds
        self.finish_reason: str | None = None
        self._gives_logprobs = request.sampling.logprobs is not None
        # The last token is sampled but never computed, so it needs no place in a page.
        most = min(config.max_model_len, config.num_pages * config.page_size + 1)
        self._max_len = min(most, self._num_prompt + request.max_tokens)
        self._max_computed = max(self._num_prompt, self._max_len - 1)

    @property
    def request_id(self) -> str:
        """The request's id."""
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
    def end(self) -> int:
        """How many of its tokens can be computed now; the very last token never is."""
        end = len(self.token_ids) + self.num_pending
        return end if end < self._max_computed else self._max_computed

    @property
    def must_wait(self) -> bool:
        """Whether there is nothing to compute before steps that are running are done."""
        return self.num_computed >= self.end

    @property
    def is_prefilling(self) -> bool:
        """Whether it is still computing its prompt, or after preemption all that it had."""
        return self.num_computed < self.prefill_end

    @property
    def num_missing_pages(self) -> int:
        """Pages it lacks to hold all tokens that can be computed."""
        return -(-self.end // self._page_size) - len(self.pages)

    def page_keys(self, num_pages: int) -> list[bytes]:
        """The keys of its first ``num_pages`` pages, which must be full."""
        extend_page_keys(self._page_keys, self.request, self.token_ids, num_pages, self._page_size)
        return self._page_keys[:num_pages]

    def will_register(self, index: int, key: bytes) -> bool:
        """Whether it is about to offer a page of this key, at this place of its prompt."""
        num_full = len(self.request.token_ids) // self._page_size
        return self.num_registered <= index < num_full and self.page_keys(num_full)[index] == key

    def num_reusable_pages(self, num_found: int) -> int:
        """How many of ``num_found`` leading pages from the prefix cache can be used.

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
        """Counts its tokens up to ``stop`` as computed; returns their chunk for the runner."""
        known = tuple(self.token_ids[self.num_computed : stop])
        num_pending = stop - self.num_computed - len(known)
        # The row of the token before ``stop`` tells of the token at ``stop``.
        num_rows = stop + 1 - self.num_asked if stop >= self.num_asked else 0
        chunk = Chunk(
            request_id=self.request.request_id,
            start=self.num_computed,
            token_ids=known + (PENDING,) * num_pending,
            pages=self.pages,
            num_rows=num_rows,
        )
        self.num_computed = stop
        if num_rows and not self.embeds:
            self.num_pending += stop == len(self.token_ids) + self.num_pending
            self.num_asked = stop + 1
        return chunk

    def meet_item(self, use: ItemUse, *, was_encoded: bool) -> None:
        """Counts an item found encoded or not, the first time it is needed."""
        if use.index not in self._met_items:
            self._met_items.add(use.index)
            self.num_encoder_hits += was_encoded
            self.num_encoded_items += not was_encoded

    def has_enough(self, chunk: Chunk) -> bool:
        """Whether no token is wanted and the chunk was the last of its prompt."""
        return self.request.max_tokens == 0 and chunk.stop == self._num_prompt

    def take(
        self, chunk: Chunk, sampled: SampledTokens
    ) -> tuple[tuple[int, ...], tuple[TokenLogprobs, ...]]:
        """Takes the tokens sampled from a chunk's rows, up to one that ends the sequence.

        Returns:
            The tokens to report to the frontend now, and their log-probabilities.
        """
        if chunk.stop == self.num_told == len(self.token_ids):
            # The most frequent case: one token, the next.
            [token_id] = sampled.token_ids
            assert self.num_pending > 0, "a token came that nobody had asked for"
            self.num_pending -= 1
            self.num_told += 1
            self._append(token_id)
            return sampled.token_ids, sampled.logprobs
        place = chunk.stop + 1 - chunk.num_rows
        for token_id in sampled.token_ids:
            if place < len(self.token_ids):
                assert self.token_ids[place] == token_id, "another token came than was given"
            elif self.finish_reason is None:
                assert self.num_pending > 0, "a token came that nobody had asked for"
                self.num_pending -= 1
                self._append(token_id)
            place += 1
        # Where log-probabilities are requested, no token is reported without its own.
        known = len(self.token_ids)
        return self._tell(min(known, chunk.stop + 1) if self._gives_logprobs else known, sampled)

    def tell(self) -> tuple[int, ...]:
        """The tokens to report to the frontend, if none of them is still to be computed."""
        return self._tell(self.num_told if self._gives_logprobs else len(self.token_ids))[0]

    def _tell(
        self, stop: int, sampled: SampledTokens | None = None
    ) -> tuple[tuple[int, ...], tuple[TokenLogprobs, ...]]:
        new = tuple(self.token_ids[self.num_told : stop])
        self.num_told = stop
        return new, () if sampled is None else sampled.logprobs[: len(new)]

    def give(self, token_ids: Iterable[int], *, is_end: bool = False) -> None:
        """Appends tokens that must follow, up to one that ends the sequence.

        Args:
            is_end: the last known token ends it then, whatever token that is.
        """
        for token_id in token_ids:
            if self.finish_reason is not None or self.request.max_tokens == 0:
                return
            self.num_pending = max(0, self.num_pending - 1)
            self._append(token_id)
        if is_end and self.finish_reason is None and self.request.max_tokens:
            self._end("stop")
        if not self._gives_logprobs:
            self.num_asked = max(self.num_asked, len(self.token_ids))

    def _append(self, token_id: int) -> None:
        self.token_ids.append(token_id)
        num_known = len(self.token_ids)
        if token_id in self.request.stop_ids and self._may_stop(num_known):
            self._end("stop")
        elif num_known >= self._max_len:
            self.finish_reason = "length"

    def _end(self, reason: str) -> None:
        """Ends it with its last known token, which need not be computed."""
        self.finish_reason = reason
        self._max_computed = max(self._num_prompt, len(self.token_ids) - 1)

    def _may_stop(self, num_known: int) -> bool:
        """Whether so many tokens are enough for one of them to end the answer."""
        return num_known - self._num_prompt > self.request.sampling.min_tokens

    def update(
        self,
        new_token_ids: tuple[int, ...] = (),
        logprobs: tuple[TokenLogprobs, ...] = (),
        *,
        prompt_logprobs: PromptLogprobs = (),
        pooled: Pooled | None = None,
        finish_reason: str | None = None,
        error: str | None = None,
        lost_item: bool = False,
    ) -> RequestUpdate:
        """The update for the frontend after a step."""
        stop_id, error_class = None, EngineError.__name__
        if finish_reason == "stop" and not self.embeds:
            last = self.token_ids[-1]
            stop_id = last if last in self.request.stop_ids else None
        if isinstance(error, Failure):
            error_class, error = error.error_class, str(error)
        # By place, since naming the fields takes three times as long.
        return RequestUpdate(
            self.request.request_id,
            new_token_ids,
            logprobs,
            prompt_logprobs,
            pooled,
            finish_reason,
            stop_id,
            error,
            error_class,
            lost_item,
            self.num_cached_tokens,
            self.num_encoded_items,
            self.num_encoder_hits,
            self.num_preemptions,
            self.first_scheduled_s,
        )
