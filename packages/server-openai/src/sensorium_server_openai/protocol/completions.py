"""``/v1/completions``: the request."""

from __future__ import annotations

from typing import ClassVar

from sensorium_server_openai.errors import bad_request
from sensorium_server_openai.options import Limits
from sensorium_server_openai.protocol.base import Refused, at_most
from sensorium_server_openai.protocol.sampling import GenerationBody


class CompletionRequest(GenerationBody):
    """The body."""

    prompt: str | list[int] | list[str] | list[list[int]]
    echo: bool | None = None
    logprobs: int | None = None

    refused: ClassVar[Refused] = {
        **GenerationBody.refused,
        "add_special_tokens": (True,),
        "suffix": (),
        "prompt_embeds": (),
    }

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        if given and isinstance(given[0], int):
            return [[token for token in given if isinstance(token, int)]]
        return [prompt for prompt in given if not isinstance(prompt, int)]

    def check_limits(self, limits: Limits) -> None:
        """As ``GenerationBody.check_limits``, and the prompts' own."""
        super().check_limits(limits)
        if not self.prompt:
            raise bad_request("prompt is empty; it must have at least one token.", "prompt")
        prompts = self.prompts
        at_most("prompt", prompts, limits.prompts)
        choices = len(prompts) * (self.n or 1)
        if choices > limits.choices:
            raise bad_request(
                f"{len(prompts)} prompts times n make {choices} answers; this server allows "
                f"{limits.choices}.",
                "n",
            )
        if self.echo and self.stream and self.logprobs is not None:
            raise bad_request("logprobs of an echoed prompt can't be streamed.", "echo")
