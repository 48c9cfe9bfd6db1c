"""TensorFlow Serving's messages and stubs, without the TensorFlow runtime.

The modules of `tensorflow-serving-api` import message modules from the `tensorflow` package, whose
`__init__` takes seconds and half a gigabyte. A stand-in module with the package's path lets them be
imported without running `__init__`. In the client's image only the message modules are installed,
and the stand-in is not needed.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def _without_runtime(package: str) -> Iterator[None]:
    if package in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"the message modules of {package} are not installed")
    stand_in = ModuleType(package)
    stand_in.__path__ = list(spec.submodule_search_locations)
    sys.modules[package] = stand_in
    try:
        yield
    finally:
        # Remove the stand-in, so that later imports find the real package.
        del sys.modules[package]


with _without_runtime("tensorflow"):
    from tensorflow.core.example import example_pb2
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow.core.protobuf import error_codes_pb2
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        input_pb2,
        model_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
        regression_pb2,
    )

DataType = types_pb2.DataType
ErrorCode = error_codes_pb2.Code
TensorProto = tensor_pb2.TensorProto
Example = example_pb2.Example
ModelSpec = model_pb2.ModelSpec
Input = input_pb2.Input
ClassificationRequest = classification_pb2.ClassificationRequest
RegressionRequest = regression_pb2.RegressionRequest
PredictRequest = predict_pb2.PredictRequest
PredictionServiceStub = prediction_service_pb2_grpc.PredictionServiceStub
ModelServiceStub = model_service_pb2_grpc.ModelServiceStub
GetModelMetadataRequest = get_model_metadata_pb2.GetModelMetadataRequest
SignatureDefMap = get_model_metadata_pb2.SignatureDefMap
GetModelStatusRequest = get_model_status_pb2.GetModelStatusRequest
ModelVersionStatus = get_model_status_pb2.ModelVersionStatus
