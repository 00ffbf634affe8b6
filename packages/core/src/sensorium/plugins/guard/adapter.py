"""``GuardedAdapter``: a plugin's adapter, as core calls it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sensorium.plugins.adapter import MediaAdapter, Placeholder
from sensorium.plugins.context import ModelContext
from sensorium.plugins.guard import checks
from sensorium.plugins.guard.door import Door, WrongReturnError
from sensorium.types import Features, Loaded, MediaPlan, MediaShape

if TYPE_CHECKING:
    import torch

#: Placeholders that a prompt without an item needs, to find one too many; they are looked at when
#: an engine starts.
_FIRST = 2
#: The same where placeholders are numbered: a number that stands for no item is told as a mistake
#: up to here.
NUMBERS_LOOKED_FOR = 100


class GuardedAdapter(MediaAdapter):
    """Wraps one instance.

    Attributes:
        inner: it.
        distribution: who brought it.

    Args:
        vocab_size: the decoder's, which bounds the ids of plans.
    """

    def __init__(self, inner: MediaAdapter, distribution: str, vocab_size: int) -> None:
        self.inner = inner
        self.distribution = distribution
        self._vocab_size = vocab_size
        for name in MediaAdapter.__annotations__:
            setattr(self, name, getattr(inner, name))
        self.door = Door(distribution, f"{type(inner).__qualname__}.")
        self._generic = inner.generic_placeholder
        self._placeholders: dict[int, Placeholder] = {}

    @classmethod
    def make(
        cls, adapter: type[MediaAdapter], context: ModelContext, distribution: str
    ) -> GuardedAdapter | None:
        """A new instance of ``adapter``, wrapped; None: it declines the model.

        Raises:
            ConfigError: a checkpoint that it doesn't implement.
            PluginError: its constructor failed, or a method that every prompt needs.
        """
        door = Door(distribution, f"{adapter.__qualname__}.")
        if not door.begin("serves", adapter.serves, context, check=checks.a(bool)):
            return None
        inner = door.begin("__init__", adapter, context, check=checks.anything)
        guarded = door.begin(
            "__init__",
            cls,
            inner,
            distribution,
            context.decoder.vocab_size,
            check=checks.a(GuardedAdapter),
        )
        texts = {guarded.placeholder(index).text for index in range(_FIRST)}
        if len(texts) > 1:
            for index in range(_FIRST, NUMBERS_LOOKED_FOR):
                guarded.placeholder(index)
        guarded.template_part()
        return guarded

    @property
    def generic_placeholder(self) -> str:
        """As ``MediaAdapter.generic_placeholder``."""
        return self._generic

    def placeholder(self, index: int) -> Placeholder:
        """As ``MediaAdapter.placeholder``; calls the plugin once for each index."""
        known = self._placeholders.get(index)
        if known is None:
            known = self.door.call(
                "placeholder",
                lambda: self.inner.placeholder(index),
                check=checks.placeholder,
            )
            self._placeholders[index] = known
        return known

    def template_part(self) -> Mapping[str, Any] | None:
        """As ``MediaAdapter.template_part``."""
        return self.door.call("template_part", self.inner.template_part, check=checks.template_part)

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """As ``MediaAdapter.options``."""
        return self.door.call("options", self.inner.options, kwargs, check=checks.plain_options)

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """As ``MediaAdapter.plan``."""
        return self.door.call("plan", self.inner.plan, shape, options, check=self._check_plan)

    def _check_plan(self, value: Any) -> MediaPlan:
        return checks.plan(value, self._vocab_size)

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, torch.Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """As ``MediaAdapter.plan_embeds``; the plan has as many tokens as there are rows."""

        def check(value: Any) -> MediaPlan:
            plan = self._check_plan(value)
            if plan.num_tokens != num_rows:
                raise WrongReturnError(
                    f"a plan of {plan.num_tokens} tokens for {num_rows} embedding rows"
                )
            return plan

        return self.door.call(
            "plan_embeds", self.inner.plan_embeds, num_rows, fields, options, check=check
        )

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """As ``MediaAdapter.process``."""
        return self.door.call(
            "process", self.inner.process, loaded, plan, options, check=checks.features(self)
        )

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """As ``MediaAdapter.worst_case``."""
        return self.door.call(
            "worst_case", self.inner.worst_case, options, io_options, check=checks.a(MediaShape)
        )
