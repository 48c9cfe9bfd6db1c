"""BentoML, with adaptive batching."""

from __future__ import annotations

import bentoml
import numpy as np

from benchmarks.peers.saved_model import SavedModel


@bentoml.service(workers="cpu_count", logging={"access": {"enabled": False}})
class Service:
    def __init__(self) -> None:
        self.model = SavedModel()

    # A batch is counted in rows; what is larger would be cut into pieces.
    @bentoml.api(batchable=True, max_batch_size=16_384, max_latency_ms=1000)
    def predict(self, instances: np.ndarray) -> np.ndarray:
        return self.model.probabilities(instances)
