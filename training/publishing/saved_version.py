"""Load a version from its directory and run its signatures, with inputs named as in requests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2


class SavedVersion:
    """A loaded version directory."""

    def __init__(self, directory: Path) -> None:
        """Load a version directory.

        Raises:
            OSError, ValueError, tf.errors.OpError: it is not a SavedModel.
        """
        content = (directory / "saved_model.pb").read_bytes()
        try:
            stored = saved_model_pb2.SavedModel.FromString(content)
            self._definitions = stored.meta_graphs[0].signature_def
            self._loaded = tf.saved_model.load(str(directory))
        except (
            DecodeError,
            IndexError,
        ) as error:  # IndexError: no graph, or a truncated checkpoint
            raise ValueError(f"{directory} is not a SavedModel: {error}") from error

    def has_signature(self, signature_name: str) -> bool:
        """Return whether the version has a signature."""
        return signature_name in self._definitions

    def input_dtypes(self, signature_name: str) -> dict[str, str]:
        """Return the name of the dtype of each input of a signature.

        Raises:
            KeyError: it has no such signature.
        """
        inputs = self._definition(signature_name).inputs
        return {name: tf.dtypes.as_dtype(info.dtype).name for name, info in inputs.items()}

    def run(
        self, signature_name: str, inputs: Mapping[str, npt.NDArray[Any]]
    ) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs of a signature.

        Raises:
            KeyError: it has no such signature or input.
            TypeError, ValueError, tf.errors.OpError: it does not take these values.
        """
        infos = self._definition(signature_name).inputs
        if unknown := [name for name in inputs if name not in infos]:
            raise KeyError(f"the signature {signature_name!r} has no input {', '.join(unknown)}")
        # A function's argument is named after its placeholder, without TensorFlow's prefix and
        # suffix.
        prefix, suffix = f"{signature_name}_", ":0"
        arguments = {
            infos[name].name.removeprefix(prefix).removesuffix(suffix): tf.constant(values)
            for name, values in inputs.items()
        }
        outputs = self._loaded.signatures[signature_name](**arguments)
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    def _definition(self, signature_name: str) -> Any:
        if not self.has_signature(signature_name):  # looking it up would add it
            raise KeyError(f"there is no signature {signature_name!r}")
        return self._definitions[signature_name]
