"""The baseline: a Python program that calls Predict over gRPC, one call at a time.

Environment: SERVER is the model server's address, ROW an `.npy` file with one row, SECONDS the
duration. The program prints the latencies of all calls, in seconds, as a JSON list.
"""

from __future__ import annotations

import json
import os
import time

import grpc
import numpy as np
import numpy.typing as npt

from client.serving.protos import DataType, PredictionServiceStub, PredictRequest
from client.serving.tensors import from_proto, to_proto

FLOAT = DataType.Value("DT_FLOAT")


def predict(stub: PredictionServiceStub, row: npt.NDArray[np.float32]) -> float:
    """Return the probability of one row `[1, 30]`."""
    request = PredictRequest()
    request.model_spec.name = "breast_cancer"
    request.model_spec.signature_name = "dense"
    request.inputs["features"].CopyFrom(to_proto(row, FLOAT))
    response = stub.Predict(request, timeout=10)
    return float(from_proto(response.outputs["probability"])[0])


def main() -> None:
    row = np.load(os.environ["ROW"])
    latencies = []
    with grpc.insecure_channel(os.environ["SERVER"]) as channel:
        stub = PredictionServiceStub(channel)
        for _ in range(200):  # warm-up
            predict(stub, row)
        before = time.perf_counter()
        end = before + float(os.environ["SECONDS"])
        while before < end:
            predict(stub, row)
            after = time.perf_counter()
            latencies.append(after - before)
            before = after
    print(json.dumps(latencies))


if __name__ == "__main__":
    main()
