"""MLServer with a custom runtime; it speaks the Open Inference Protocol."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.peers.saved_model import SavedModel


class Model(MLModel):
    async def load(self) -> bool:
        self.model = SavedModel()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self.decode(payload.inputs[0], default_codec=NumpyCodec)
        output = NumpyCodec.encode_output("probability", self.model.probabilities(rows))
        return InferenceResponse(model_name=self.name, outputs=[output])
