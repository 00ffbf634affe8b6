"""Who computes what in the next step: continuous batching over KV pages and embeddings.

Plain Python: numbers, keys and token ids, never a tensor.
"""

from sensorium.scheduler.config import SchedulerConfig, SchedulerStats
from sensorium.scheduler.scheduler import Scheduler

__all__ = ["Scheduler", "SchedulerConfig", "SchedulerStats"]
