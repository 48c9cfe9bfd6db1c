"""LitServe with batching: concurrent requests share one call of the model."""

# No `from __future__ import annotations`: LitServe inspects annotations at run time.

import os
from collections.abc import Sequence
from typing import Any

import litserve
import numpy as np
import numpy.typing as npt

from benchmarks.peers.saved_model import SavedModel

Floats = npt.NDArray[np.float32]


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = SavedModel()

    # With an annotation FastAPI would read the body, which takes longer.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return np.asarray(request["instances"], np.float32)

    def batch(self, inputs: Sequence[Floats]) -> Sequence[Floats]:
        return inputs

    def predict(self, requests: Sequence[Floats]) -> list[Floats]:
        probabilities = self.model.probabilities(np.concatenate(requests))
        return np.split(probabilities, np.cumsum([len(rows) for rows in requests])[:-1])

    def unbatch(self, output: list[Floats]) -> list[Floats]:
        return output

    def encode_response(self, output: Floats) -> Any:
        return {"predictions": output.tolist()}


if __name__ == "__main__":
    litserve.LitServer(
        Api(max_batch_size=64, batch_timeout=0.001),
        accelerator="cpu",
        workers_per_device=os.cpu_count(),
        fast_queue=True,
    ).run(
        host="127.0.0.1",
        port=int(os.environ["PORT"]),
        log_level="warning",
        generate_client_file=False,
    )
