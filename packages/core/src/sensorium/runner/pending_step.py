"""``PendingStep``: a step that the device may still be working on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from sensorium.runner.sampler import Choice, PromptReports
from sensorium.runner.upload import Download
from sensorium.types import PromptLogprobs, SampledToken, StepOutput


class PendingStep:
    """What was asked of the device, and how to read its answers.

    Args:
        choices: the tokens, in the order of the chunks.
        prompts: log-probabilities of prompt tokens.
        pooled: request id → (hidden,) float32.
        finite: key of an embedding made in this step → (1,) bool, and what is wrong if it is False.
        failed: request id → why, as far as the host knows it.
        users_of: who computes with an embedding in this step.
        forget: told of what failed, in the end.
    """

    def __init__(
        self,
        *,
        choices: Sequence[Choice] = (),
        prompts: Sequence[PromptReports] = (),
        pooled: Mapping[str, Tensor] | None = None,
        finite: Mapping[bytes, tuple[Tensor, str]] | None = None,
        failed: Mapping[str, str] | None = None,
        users_of: Callable[[bytes], Iterable[str]] = lambda key: (),
        forget: Callable[[Mapping[str, str]], None] = lambda failed: None,
    ) -> None:
        self._choices = choices
        self._prompts = prompts
        self._pooled = dict(pooled or {})
        self._finite = dict(finite or {})
        self._failed = dict(failed or {})
        self._users_of = users_of
        self._forget = forget
        tensors = [tensor for choice in choices for tensor in choice.tensors]
        tensors += [tensor for report in prompts for tensor in report.tensors]
        tensors += [*self._pooled.values(), *(flag for flag, _ in self._finite.values())]
        self._download = Download(tensors)

    def result(self) -> StepOutput:
        """Waits for the device; to be called once."""
        arrived = iter(self._download.wait())
        tokens: list[SampledToken] = []
        broken: dict[str, str] = {}
        for choice in self._choices:
            chosen, without = choice.read([next(arrived) for _ in choice.tensors])
            tokens += chosen
            broken.update(without)
        logprobs: dict[str, PromptLogprobs] = {}
        for report in self._prompts:
            found = report.read([next(arrived) for _ in report.tensors])
            logprobs[report.request_id] = logprobs.get(report.request_id, ()) + found
        pooled = {name: tuple(next(arrived).tolist()) for name in self._pooled}
        for key, (_, sentence) in self._finite.items():
            if not bool(next(arrived)):
                broken.update(dict.fromkeys(self._users_of(key), sentence))
        failed = {**self._failed, **broken}
        self._forget(failed)
        if failed:
            tokens = [token for token in tokens if token.request_id not in failed]
        return StepOutput(
            tokens=tuple(tokens),
            failed=failed,
            prompt_logprobs=logprobs,
            pooled=pooled,
        )
