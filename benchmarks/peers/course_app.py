"""The course's web server: a new channel for each request, lists of floats, no deadline."""

from __future__ import annotations

import os

import grpc
from flask import Flask, Response, jsonify, request
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

app = Flask(__name__)


@app.post("/api/v1/prediction/breast_cancer")
def prediction() -> Response:
    rows = request.get_json()["instances"]
    with grpc.insecure_channel(os.environ["SERVER"]) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "breast_cancer"
        message.model_spec.signature_name = "dense"
        features = message.inputs["features"]
        features.dtype = types_pb2.DT_FLOAT
        features.tensor_shape.dim.add(size=len(rows))
        features.tensor_shape.dim.add(size=len(rows[0]))
        for row in rows:
            features.float_val.extend(row)
        response = stub.Predict(message)
    return jsonify(predictions=list(response.outputs["probability"].float_val))
