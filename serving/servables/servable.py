"""One loaded version of a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.servables.session import Cancelled, Session, never
from serving.servables.tensors import Tensor

DEFAULT_SIGNATURE = "serving_default"
# Values of SignatureDef.method_name.
METHOD_PREDICT = "tensorflow/serving/predict"
METHOD_CLASSIFY = "tensorflow/serving/classify"
METHOD_REGRESS = "tensorflow/serving/regress"

# Takes the API's name, such as Predict, and the seconds that the run took, including any wait for a
# batch.
RecordRun = Callable[[str, float], None]


@dataclass(frozen=True)
class Signature:
    """A SignatureDef, parsed once instead of for each request.

    Attributes:
        definition: the SignatureDef.
        inputs: the tensor that each input feeds, in alphabetical order of the inputs' names.
        outputs: the tensor to fetch for each output, in alphabetical order of the outputs' names.
        dtypes: each input's dtype in the graph, which may differ from the SignatureDef's; None if
            the graph has no such tensor.
    """

    definition: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    dtypes: Mapping[str, Any]

    @classmethod
    def of(cls, definition: Any, dtype: Callable[[str], Any]) -> Signature:
        """Parse a SignatureDef.

        Args:
            definition: the SignatureDef.
            dtype: returns a tensor's dtype, or None if there is no such tensor.
        """
        inputs, outputs = _tensor_names(definition.inputs), _tensor_names(definition.outputs)
        return cls(definition, inputs, outputs, {n: dtype(tensor) for n, tensor in inputs.items()})


@dataclass(frozen=True)
class ResponseOptions:
    """Options for answering requests.

    Attributes:
        as_content: send numbers as `tensor_content` instead of typed fields.
        check_method: reject signatures that were exported for another method.
    """

    as_content: bool = False
    check_method: bool = False


@dataclass(frozen=True)
class Servable:
    """A loaded version; it owns its session.

    Attributes:
        name: the model's name.
        version: the version's number.
        path: the version's directory.
        signatures: the signatures by name.
        session: runs the graph.
        options: options for answering requests.
        record_run: called after each successful run of the graph.
    """

    name: str
    version: int
    path: Path
    signatures: Mapping[str, Signature]
    session: Session
    options: ResponseOptions
    record_run: RecordRun

    def run(
        self,
        api: str,
        feeds: Sequence[str],
        fetches: Sequence[str],
        inputs: Sequence[Tensor],
        cancelled: Cancelled = never,
    ) -> list[Tensor]:
        """Run the graph like `Session.run` and record the duration."""
        started = time.perf_counter()
        values = self.session.run(feeds, fetches, inputs, cancelled)
        self.record_run(api, time.perf_counter() - started)
        return values

    def write_spec(self, model_spec: Any, signature: str) -> None:
        """Write the model, version and signature into a response's ModelSpec."""
        model_spec.name = self.name
        model_spec.version.value = self.version
        model_spec.signature_name = signature

    def close(self) -> None:
        """Free the version's resources; no call may be in progress."""
        self.session.close()


def _tensor_names(infos: Mapping[str, Any]) -> dict[str, str]:
    return {name: info.name for name, info in sorted(infos.items())}
