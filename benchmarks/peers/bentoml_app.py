"""BentoML, with adaptive batching."""

from __future__ import annotations

import bentoml
import numpy as np

from benchmarks.peers.saved_model import SavedModel


@bentoml.service(workers="cpu_count", logging={"access": {"enabled": False}})
class Service:
    def __init__(self) -> None:
        self.model = SavedModel()

    # The batch size is in rows; a larger request would be split.
    @bentoml.api(batchable=True, max_batch_size=16_384, max_latency_ms=1000)
    def predict(self, instances: np.ndarray) -> np.ndarray:
        return self.model.probabilities(instances)
