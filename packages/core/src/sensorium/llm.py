"""``LLM``: the synchronous face for scripts and notebooks.

It drives an ``AsyncEngine`` from an event loop in a thread of its own, so it works where a
loop is running already (a notebook) and from several threads at once. Media of later prompts
are prepared while earlier ones run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar

from tqdm import tqdm

from sensorium.engine.async_engine import AsyncEngine, check_sampling_params, last_output
from sensorium.engine.owner import Owner
from sensorium.errors import (
    ConfigError,
    EngineClosedError,
    EngineError,
    RequestError,
    SensoriumError,
)
from sensorium.frontend.chat import Conversation
from sensorium.frontend.prompts import PromptInput, split_prompts
from sensorium.outputs import (
    EmbeddingOutput,
    EmbeddingRequestOutput,
    PoolingOutput,
    PoolingRequestOutput,
    RequestOutput,
    RequestOutputKind,
)
from sensorium.pooling_params import PoolingParams
from sensorium.sampling_params import SamplingParams
from sensorium.stats import EngineStats
from sensorium.tokenizer import Tokenizer

T = TypeVar("T")
OnError = Literal["raise", "return"]
UseTqdm = bool | Callable[..., Any]
S = TypeVar("S")
#: How long coroutines of a closed engine may take to finish.
_END_S = 5.0


class LLM:
    """A model, loaded and ready.

    Takes the options of ``sensorium.config.EngineConfig``; ``model`` may come first.
    A context manager: leaving it closes the engine and gives its memory back. So does deleting the
    last reference to it.

    Raises:
        ConfigError: an option or a checkpoint that can't work.
        PluginError: the model needs a plugin that is missing or broken.
    """

    def __init__(self, model: str | None = None, **options: Any) -> None:
        if options.get("max_queued_requests") is not None:
            raise ConfigError(
                "max_queued_requests is for AsyncEngine; the calls of an LLM wait for each other."
            )
        self._engine = AsyncEngine(model, **options)
        self._driver = _Driver()
        self._owner = Owner(self, partial(_close, self._engine, self._driver))

    def generate(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: UseTqdm = True,
        on_error: OnError = "raise",
        priority: int | Sequence[int] = 0,
    ) -> list[RequestOutput]:
        """Answers prompts; outputs come in the prompts' order.

        Args:
            prompts: text, a list of token ids, a mapping ("prompt" or "prompt_token_ids",
                "multi_modal_data", "multi_modal_uuids", "mm_processor_kwargs",
                "cache_salt"), or a list of these.
            sampling_params: one for all, or one for each; None: the checkpoint's defaults.
            use_tqdm: a progress bar, or a function to make one.
            on_error: "raise" ends the call's other prompts and raises; "return" puts the
                error into its prompt's output (``RequestOutput.error``) and goes on.
            priority: one for all, or one for each; lower ones go first.

        Raises:
            RequestError: a prompt that can't be served (unless ``on_error`` is "return").
            EngineError: the engine failed or was closed.
        """
        parts = split_prompts(prompts)
        params = _one_each(sampling_params, len(parts), "SamplingParams")
        ranks = _one_each(priority, len(parts), "priorities")
        return self._answer_all(
            lambda i: last_output(
                self._engine.generate(parts[i], self._final(params[i]), priority=ranks[i] or 0)
            ),
            lambda error: RequestOutput("", None, (), (), finished=True, error=error),
            len(parts),
            use_tqdm,
            on_error,
        )

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        use_tqdm: UseTqdm = True,
        on_error: OnError = "raise",
        chat_template: str | None = None,
        chat_template_content_format: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        mm_processor_kwargs: Mapping[str, Any] | None = None,
        cache_salt: str | None = None,
        priority: int | Sequence[int] = 0,
    ) -> list[RequestOutput]:
        """Answers one conversation or a list of them.

        Args:
            messages: {"role", "content"} mappings; content is text or a list of parts.
            chat_template: a template or its path, instead of the model's own.
            continue_final_message: go on with the last message instead of answering it.

        Raises: as ``generate``.
        """
        conversations = _conversations(messages)
        params = _one_each(sampling_params, len(conversations), "SamplingParams")
        ranks = _one_each(priority, len(conversations), "priorities")
        options: dict[str, Any] = {
            "chat_template": chat_template,
            "content_format": chat_template_content_format,
            "template_kwargs": chat_template_kwargs or {},
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": continue_final_message,
            "tools": tools,
            "processor_kwargs": mm_processor_kwargs or {},
            "salt": cache_salt or "",
        }
        return self._answer_all(
            lambda i: last_output(
                self._engine.chat(
                    conversations[i], self._final(params[i]), priority=ranks[i] or 0, **options
                )
            ),
            lambda error: RequestOutput("", None, (), (), finished=True, error=error),
            len(conversations),
            use_tqdm,
            on_error,
        )

    def embed(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        *,
        use_tqdm: UseTqdm = True,
        on_error: OnError = "raise",
        priority: int | Sequence[int] = 0,
    ) -> list[EmbeddingRequestOutput]:
        """Prompts as vectors, of an engine loaded with ``task="embed"``.

        A vector is the last token's hidden state behind the model's last norm, divided by its
        length unless the parameters or the model's family say otherwise.

        Args:
            pooling_params: one for all, or one for each.

        Other arguments and errors as for ``generate``.
        """
        return self._pool(
            self._engine.embed,
            lambda error: EmbeddingRequestOutput(
                "", None, (), EmbeddingOutput(()), finished=True, error=error
            ),
            prompts,
            pooling_params,
            (use_tqdm, on_error, priority),
        )

    def encode(
        self,
        prompts: PromptInput | Sequence[PromptInput],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None = None,
        *,
        use_tqdm: UseTqdm = True,
        on_error: OnError = "raise",
        priority: int | Sequence[int] = 0,
    ) -> list[PoolingRequestOutput]:
        """As ``embed``, the vectors as they are unless the parameters say otherwise."""
        return self._pool(
            self._engine.encode,
            lambda error: PoolingRequestOutput(
                "", None, (), PoolingOutput(()), finished=True, error=error
            ),
            prompts,
            pooling_params,
            (use_tqdm, on_error, priority),
        )

    def _pool(
        self,
        pool: Callable[..., Awaitable[T]],
        failed: Callable[[SensoriumError], T],
        prompts: PromptInput | Sequence[PromptInput],
        pooling_params: PoolingParams | Sequence[PoolingParams] | None,
        options: tuple[UseTqdm, OnError, int | Sequence[int]],
    ) -> list[T]:
        use_tqdm, on_error, priority = options
        parts = split_prompts(prompts)
        params = _one_each(pooling_params, len(parts), "PoolingParams")
        ranks = _one_each(priority, len(parts), "priorities")
        return self._answer_all(
            lambda i: pool(parts[i], params[i], priority=ranks[i] or 0),
            failed,
            len(parts),
            use_tqdm,
            on_error,
        )

    def get_tokenizer(self) -> Tokenizer:
        """The tokenizer in use."""
        return self._engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """What a request without parameters gets."""
        return self._engine.get_default_sampling_params()

    def reset_mm_cache(self) -> None:
        """Forgets processed media and embeddings."""
        self._wait(self._engine.reset_mm_cache())

    def reset_prefix_cache(self) -> bool:
        """Forgets cached pages; False if running requests still use some."""
        return self._wait(self._engine.reset_prefix_cache())

    def stats(self) -> EngineStats:
        """What the engine has counted and measured; as ``AsyncEngine.stats``."""
        return self._wait(self._engine.stats())

    def check_integrity(self) -> None:
        """For tests: AssertionError if pages or cache references are unaccounted for."""
        self._wait(self._engine.check_integrity())

    def close(self) -> None:
        """Ends the engine, its threads and running requests; gives the memory back.

        In a forked child nothing happens: the engine is the parent's.
        """
        self._owner.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _final(self, given: SamplingParams | None) -> SamplingParams:
        """The parameters of a call that returns when all is done, and wants one output."""
        params = self._engine.get_default_sampling_params() if given is None else given
        check_sampling_params(params)
        return replace(params, output_kind=RequestOutputKind.FINAL_ONLY)

    # --- driving the loop -------------------------------------------------------------

    def _answer_all(
        self,
        start: Callable[[int], Awaitable[T]],
        failed: Callable[[SensoriumError], T],
        count: int,
        use_tqdm: UseTqdm,
        on_error: OnError,
    ) -> list[T]:
        if on_error not in ("raise", "return"):
            raise RequestError(f'on_error is {on_error!r}; allowed are "raise" and "return".')
        bar = _progress_bar(use_tqdm, count)
        try:
            return self._wait(self._gather(start, failed, count, bar, on_error))
        finally:
            if bar is not None:
                bar.close()

    async def _gather(
        self,
        start: Callable[[int], Awaitable[T]],
        failed: Callable[[SensoriumError], T],
        count: int,
        bar: Any,
        on_error: OnError,
    ) -> list[T]:
        """Runs all; the semaphore bounds how many hold prepared media at once."""
        in_flight = asyncio.Semaphore(2 * self._engine.config.max_num_seqs)

        async def answer(i: int) -> T:
            async with in_flight:
                try:
                    output = await start(i)
                except SensoriumError as error:
                    if on_error == "raise":
                        raise
                    output = failed(error)
            if bar is not None:
                bar.update(1)
            return output

        tasks = [asyncio.create_task(answer(i)) for i in range(count)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """As ``_Driver.run``."""
        try:
            self._owner.check_process()
        except EngineError:
            work.close()
            raise
        return self._driver.run(work)


class _Driver:
    """An event loop in a thread of its own, that runs coroutines for other threads."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="sensorium-llm", daemon=True
        )
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine and waits for it; Ctrl-C cancels it and waits until it has ended.

        Raises:
            EngineClosedError: ``close`` was called before it could begin, or it didn't end then.
        """
        done = threading.Event()

        async def marked() -> T:
            try:
                return await work
            finally:
                done.set()

        with self._lock:
            if self._closed:
                work.close()
                raise EngineClosedError("The engine was closed.")
            future = asyncio.run_coroutine_threadsafe(marked(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise EngineClosedError("The engine was closed.") from None
        except KeyboardInterrupt:
            future.cancel()
            done.wait(timeout=10.0)  # a coroutine cancelled before its first step never sets it
            raise

    def close(self) -> None:
        """Takes no more work, lets what runs end, and ends the thread.

        Whatever the work waits for must have ended: its coroutines end with that error.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(_end_tasks(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _close(engine: AsyncEngine, driver: _Driver) -> None:
    engine.close()
    driver.close()


async def _end_tasks() -> None:
    """Lets running coroutines end with the error they were sent, and cancels the others."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=_END_S)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _progress_bar(use_tqdm: UseTqdm, count: int) -> Any:
    if use_tqdm is False:
        return None
    make = tqdm if use_tqdm is True else use_tqdm
    return make(total=count, desc="Processed prompts", dynamic_ncols=True)


def _one_each(given: S | Sequence[S] | None, count: int, what: str) -> list[S | None]:
    if given is None or not isinstance(given, Sequence):
        return [given] * count
    if len(given) != count:
        raise RequestError(
            f"There are {count} prompts and {len(given)} {what}; give one for all or one for each."
        )
    return list(given)


def _conversations(messages: Any) -> list[Conversation]:
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise RequestError("messages must be a list of messages, or a list of such lists.")
    return [messages] if isinstance(messages[0], Mapping) else list(messages)
