"""One training step, and where its batches come from.

A step is many small launches, so on a GPU it is captured once per size of media as a CUDA graph and
replayed. Drawing is slower than the device: while no fresh batch is ready, a recent one is used
again, a bounded number of times. Media may be prepared on the device, anew for each use.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, Queue
from typing import Any

import torch
from batches import Drawers, Group
from decoder import Forward, Inputs, to_device
from torch import Tensor


@dataclass(slots=True, eq=False)
class OnDevice:
    """A batch on the device, and how often it was used."""

    groups: list[Inputs]
    media: Tensor
    uses: int = 0


class Feed:
    """Batches on the device: fresh ones where there are, otherwise recent ones again.

    Args:
        most_uses: of a batch.
        keep: recent batches that stay on the device.
        prepare: what becomes of media on the device, each time that they are used.
    """

    def __init__(
        self,
        drawers: Drawers,
        device: torch.device,
        most_uses: int,
        keep: int,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._prepare = prepare
        self._drawers, self._device = drawers, device
        self._most_uses, self._keep = most_uses, keep
        self._queue: Queue[tuple[list[Group], Tensor]] = Queue(maxsize=4)
        self._recent: list[OnDevice] = []
        self._chance = random.Random(0)
        self.num_fresh = self.num_again = 0
        self.waited_s = 0.0
        threading.Thread(target=self._copy, daemon=True).start()

    def _copy(self) -> None:
        """Copy batches out of the workers' memory into pinned memory, a few ahead."""
        for batch in self._drawers:
            source = torch.from_numpy(batch.media)
            if self._device.type == "cuda":
                staged = torch.empty(source.shape, dtype=source.dtype, pin_memory=True)
                staged.copy_(source)
            else:
                staged = source.clone()
            self._queue.put((batch.groups, staged))

    def next(self) -> OnDevice:
        """The next batch to train on."""
        try:
            fresh = self._queue.get_nowait()
        except Empty:
            if len(self._recent) >= self._keep // 2:
                self.num_again += 1
                return self._use(self._chance.choice(self._recent))
            begun = time.monotonic()
            fresh = self._queue.get()
            self.waited_s += time.monotonic() - begun
        groups, media = fresh
        moved = OnDevice(
            [to_device(group, self._device) for group in groups],
            media.to(self._device, non_blocking=True),
        )
        self.num_fresh += 1
        if self._most_uses > 1:
            self._recent.append(moved)
            if len(self._recent) > self._keep:
                self._recent.pop(0)
        return self._use(moved)

    def _use(self, batch: OnDevice) -> OnDevice:
        batch.uses += 1
        if batch.uses >= self._most_uses and batch in self._recent:
            self._recent.remove(batch)
        return batch if self._prepare is None else replace(batch, media=self._prepare(batch.media))


@dataclass(slots=True)
class Captured:
    """A step as a graph, with the tensors it reads and the loss it writes."""

    graph: Any
    groups: list[Inputs]
    media: Tensor
    loss: Tensor


class Stepper:
    """Forward, backward, clip, update: eagerly, or as graphs on a GPU."""

    def __init__(
        self,
        forward: Forward,
        optimizer: torch.optim.Optimizer,
        *,
        graphs: bool,
        smoothing: float = 0.0,
    ) -> None:
        self._forward, self._optimizer, self._use_graphs = forward, optimizer, graphs
        self._smoothing = smoothing
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for parameter in self._parameters:
            parameter.grad = torch.zeros_like(parameter)
        device = self._parameters[0].device
        self.num_skipped, self.largest_norm = torch.zeros(2, device=device).unbind()
        self._captured: dict[torch.Size, Captured] = {}
        self._warm: set[torch.Size] = set()
        self._pool: Any = None
        self._events: list[Any] = []

    def set_rate(self, rate: float) -> None:
        """Set the learning rate, in place where graphs read it."""
        for settings in self._optimizer.param_groups:
            if isinstance(settings["lr"], Tensor):
                settings["lr"].fill_(rate)
            else:
                settings["lr"] = rate

    def step(self, batch: OnDevice) -> Tensor:
        """Train on one batch; returns its loss, on the device."""
        shape = batch.media.shape
        if not self._use_graphs or shape not in self._warm:
            self._warm.add(shape)
            return self._compute(batch.groups, batch.media)
        if shape not in self._captured:
            self._captured[shape] = self._capture(batch)
        held = self._captured[shape]
        held.media.copy_(batch.media)
        for mine, given in zip(held.groups, batch.groups, strict=True):
            for tensor, new in zip(mine.tensors(), given.tensors(), strict=True):
                tensor.copy_(new)
        held.graph.replay()
        self._wait_for_last_but_one()
        return held.loss.clone()

    def _compute(self, groups: list[Inputs], media: Tensor) -> Tensor:
        on_gpu = media.device.type == "cuda"  # few CPUs have fast products in bfloat16
        with torch.autocast(media.device.type, torch.bfloat16, on_gpu, cache_enabled=False):
            loss = self._forward.loss(groups, media, self._smoothing)
        loss.backward()
        self._clip()
        self._optimizer.step()
        torch._foreach_zero_([p.grad for p in self._parameters])
        return loss.detach()

    def _clip(self) -> None:
        """Scale the gradients to a norm of one at most; to nothing where they are not finite.

        One bad step must not end a run on a borrowed machine, and a graph cannot branch.
        """
        gradients = [p.grad for p in self._parameters]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        finite = torch.isfinite(norm)
        self.num_skipped += (~finite).float()
        torch.maximum(self.largest_norm, norm.masked_fill(~finite, 0.0), out=self.largest_norm)
        for gradient in gradients:
            gradient.nan_to_num_(0.0, 0.0, 0.0)
        torch._foreach_mul_(gradients, (1.0 / norm).clamp(max=1.0).masked_fill(~finite, 0.0))

    def snapshot(self) -> list[Tensor]:
        """A copy of the weights as they are now."""
        return [p.detach().clone() for p in self._parameters]

    def restore(self, weights: list[Tensor]) -> None:
        """Go back to a snapshot, with the optimizer's momentum forgotten."""
        with torch.no_grad():
            torch._foreach_copy_(self._parameters, weights)
            for state in self._optimizer.state.values():
                state["exp_avg"].zero_()

    def _capture(self, batch: OnDevice) -> Captured:
        media = batch.media.clone()
        groups = [group.clone() for group in batch.groups]
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.current_stream()
        with torch.cuda.graph(
            graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"
        ):
            loss = self._compute(groups, media)
        self._pool = graph.pool()
        return Captured(graph, groups, media, loss)

    def _wait_for_last_but_one(self) -> None:
        """Keep the host at most two steps ahead, so that `Feed` sees the device's true pace."""
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > 2:
            self._events.pop(0).synchronize()
