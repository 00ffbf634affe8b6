"""``TokenCounts``: how often each token has occurred in the requests that are penalised for it.

Kept on the device, since only the device knows the newest token when the next one is sampled.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from sensorium.runner.request_state import RunningRequest
from sensorium.runner.upload import upload


class TokenCounts:
    """Two tables with a row for each running request.

    Args:
        num_slots: requests that run at once at most.

    Attributes:
        in_prompt: (num_slots, vocab_size) bool: tokens of the prompt.
        in_answer: (num_slots, vocab_size) int32: how often each token occurs in the answer.
    """

    def __init__(self, num_slots: int, vocab_size: int, device: torch.device) -> None:
        self.in_prompt = torch.zeros(num_slots, vocab_size, dtype=torch.bool, device=device)
        self.in_answer = torch.zeros(num_slots, vocab_size, dtype=torch.int32, device=device)

    def start(self, running: RunningRequest) -> None:
        """Makes a row ready for a request that starts (again)."""
        self.in_prompt[running.slot] = False
        self.in_answer[running.slot] = 0
        ids = np.unique(np.array(running.request.token_ids, dtype=np.int64))
        # Ids that embeddings replace need not be in the vocabulary.
        ids = ids[ids < self.in_prompt.shape[1]]
        [index] = upload([ids], self.in_prompt.device)
        self.in_prompt[running.slot].index_fill_(0, index, True)

    def take(self, running: RunningRequest) -> None:
        """Counts the generated tokens that came in chunks: those of a request that starts again."""
        new = running.generated[running.num_counted :]
        if new:
            [ids] = upload([np.array(new, dtype=np.int64)], self.in_answer.device)
            ones = torch.ones_like(ids, dtype=torch.int32)
            self.in_answer[running.slot].index_add_(0, ids, ones)
            running.num_counted += len(new)

    def add(self, requests: Sequence[RunningRequest], slots: Tensor, tokens: Tensor) -> None:
        """Counts one sampled token for each request.

        Args:
            slots, tokens: (len(requests),) int64 on the device.
        """
        ones = torch.ones_like(tokens, dtype=torch.int32)
        self.in_answer.index_put_((slots, tokens), ones, accumulate=True)
        for running in requests:
            running.num_counted += 1
