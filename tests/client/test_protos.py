from __future__ import annotations

import subprocess
import sys

from tests.support.processes import ROOT


def run(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_client_does_not_load_the_tensorflow_runtime() -> None:
    code = """
import sys, client.predict_file, client.http.flask_app, client.http.server
print("tensorflow" in sys.modules, any("pywrap" in name for name in sys.modules))
"""
    assert run(code) == "False False"


def test_tensorflow_imported_after_the_client_shares_its_messages() -> None:
    code = """
from client.serving.protos import PredictRequest
import tensorflow as tf
request = PredictRequest()
request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.5]))
print(tf.make_ndarray(request.inputs["x"]), tf.add(1, 1).numpy())
"""
    assert run(code) == "[1.5] 2"


def test_client_can_be_imported_after_tensorflow() -> None:
    code = """
import tensorflow as tf
from client.serving.protos import PredictRequest
request = PredictRequest()
request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.5]))
print(tf.add(1, 1).numpy())
"""
    assert run(code) == "2"
