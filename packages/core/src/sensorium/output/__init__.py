"""From the engine's updates to what a caller gets: text, stop strings, log-probabilities."""

from sensorium.output.pooled_state import PooledState
from sensorium.output.request_state import RequestState

__all__ = ["PooledState", "RequestState"]
