"""``PendingStep``: a step that the device may still be working on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import Tensor

from sensorium.runner.sampler import Choice, GivenReports, PromptReports
from sensorium.runner.upload import Download
from sensorium.types import PromptLogprobs, SampledTokens, StepOutput, TokenLogprobs


class PendingStep:
    """The device's results, and how to read them. Reading changes nothing.

    Args:
        choices: the sampled tokens, in the order of the chunks.
        given: log-probabilities of given tokens.
        prompts: log-probabilities of prompt tokens.
        pooled: request id → (hidden,) float32.
        finite: key of an embedding made in this step → (1,) bool, and what is wrong if it is False.
        failed: request id → why, as far as the host knows it.
        users_of: the requests that compute with an embedding in this step.
    """

    def __init__(
        self,
        *,
        choices: Sequence[Choice] = (),
        given: Sequence[GivenReports] = (),
        prompts: Sequence[PromptReports] = (),
        pooled: Mapping[str, Tensor] | None = None,
        finite: Mapping[bytes, tuple[Tensor, str]] | None = None,
        failed: Mapping[str, str] | None = None,
        users_of: Callable[[bytes], Iterable[str]] = lambda key: (),
    ) -> None:
        self._choices = choices
        self._given = given
        self._prompts = prompts
        self._pooled = dict(pooled or {})
        self._finite = dict(finite or {})
        self._failed = dict(failed or {})
        self._users_of = users_of
        tensors = [tensor for choice in choices for tensor in choice.tensors]
        tensors += [tensor for report in given for tensor in report.tensors]
        tensors += [tensor for report in prompts for tensor in report.tensors]
        tensors += [*self._pooled.values(), *(flag for flag, _ in self._finite.values())]
        self._download = Download(tensors)

    def result(self) -> StepOutput:
        """Waits for the device; to be called once."""
        arrived = iter(self._download.wait())
        tokens: list[SampledTokens] = []
        broken: dict[str, str] = {}
        for choice in self._choices:
            chosen, without = choice.read([next(arrived) for _ in choice.tensors])
            tokens += chosen
            broken.update(without)
        if self._given:
            before = {
                report.request_id: (
                    report.token_ids,
                    report.read([next(arrived) for _ in report.tensors]),
                )
                for report in self._given
            }
            tokens = [_behind(before.get(sampled.request_id), sampled) for sampled in tokens]
        logprobs: dict[str, PromptLogprobs] = {}
        for report in self._prompts:
            found = report.read([next(arrived) for _ in report.tensors])
            logprobs[report.request_id] = logprobs.get(report.request_id, ()) + found
        pooled = {name: tuple(next(arrived).tolist()) for name in self._pooled}
        for key, (_, sentence) in self._finite.items():
            if not bool(next(arrived)):
                broken.update(dict.fromkeys(self._users_of(key), sentence))
        failed = {**self._failed, **broken}
        if failed:
            tokens = [sampled for sampled in tokens if sampled.request_id not in failed]
        return StepOutput(
            tokens=tuple(tokens),
            failed=failed,
            prompt_logprobs=logprobs,
            pooled=pooled,
        )


def _behind(
    given: tuple[tuple[int, ...], tuple[TokenLogprobs, ...]] | None, sampled: SampledTokens
) -> SampledTokens:
    """A sampled token behind the given ones of the same chunk."""
    if given is None:
        return sampled
    token_ids, logprobs = given
    return sampled._replace(
        token_ids=token_ids + sampled.token_ids, logprobs=logprobs + sampled.logprobs
    )
