"""``EngineBackend``: a model that is loaded into this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from sensorium import AsyncEngine, ConfigError, RequestOutput
from sensorium.outputs import RequestOutputKind
from sensorium_server_openai.terminal.backend import Messages, Options, Piece


class EngineBackend:
    """Runs the engine's event loop while it answers.

    Args:
        model: a folder, a hub name, or the name of an embedded model.

    Raises:
        ConfigError, PluginError: as ``AsyncEngine``; or the model was made to embed.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._engine = AsyncEngine(model)
        if self._engine.task != "generate":
            self._engine.close()
            raise ConfigError(f"{model} was loaded to {self._engine.task}; it doesn't chat.")
        self._runner = asyncio.Runner()

    def answer(self, messages: Messages, options: Options) -> Iterator[Piece]:
        """See ``Backend.answer``."""
        changes: dict[str, Any] = {"max_tokens": options.max_tokens}
        if options.temperature is not None:
            changes["temperature"] = options.temperature
        sampling = replace(
            self._engine.get_default_sampling_params(),
            output_kind=RequestOutputKind.DELTA,
            **changes,
        )
        outputs = _pieces(self._engine.chat(messages, sampling))
        try:
            while (piece := self._runner.run(_next(outputs))) is not None:
                yield piece
        finally:
            self._runner.run(_close(outputs))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._engine.close()
        self._runner.close()


async def _pieces(outputs: AsyncIterator[RequestOutput]) -> AsyncIterator[Piece]:
    num_tokens = 0
    async with aclosing(outputs):  # type: ignore[type-var]
        async for output in outputs:
            (answer,) = output.outputs
            num_tokens += len(answer.token_ids)
            yield Piece(answer.text, len(output.prompt_token_ids), num_tokens)


async def _next(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


async def _close(pieces: Any) -> None:
    await pieces.aclose()
