"""The error that callers of the model server see."""

from __future__ import annotations

import grpc

# TensorFlow Serving truncates longer messages: gRPC limits the header that carries them.
MAX_DETAILS_BYTES = 1024
TRUNCATED = "...TRUNCATED"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A failed request or load, with TensorFlow Serving's status code."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def from_number(cls, number: int, message: str) -> ServingError:
        """Return the error for a numeric code, such as a `tf.errors.OpError`'s."""
        return cls(_CODES.get(number, grpc.StatusCode.UNKNOWN), message)

    @property
    def number(self) -> int:
        """The code's number, the same in gRPC and in `tensorflow.error.Code`."""
        number: int = self.code.value[0]
        return number

    @property
    def details(self) -> str:
        """The message, truncated to fit into a gRPC status."""
        data = self.message.encode("utf-8", "replace")
        if len(data) <= MAX_DETAILS_BYTES:
            return self.message
        return data[:MAX_DETAILS_BYTES].decode("utf-8", "ignore") + TRUNCATED


def cancelled() -> ServingError:
    """Return a CANCELLED error for a caller that has stopped waiting."""
    return ServingError(grpc.StatusCode.CANCELLED, "the caller has stopped waiting")


def deadline_exceeded(message: str) -> ServingError:
    """Return a DEADLINE_EXCEEDED error."""
    return ServingError(grpc.StatusCode.DEADLINE_EXCEEDED, message)


def failed_precondition(message: str) -> ServingError:
    """Return a FAILED_PRECONDITION error."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def internal(message: str) -> ServingError:
    """Return an INTERNAL error."""
    return ServingError(grpc.StatusCode.INTERNAL, message)


def invalid_argument(message: str) -> ServingError:
    """Return an INVALID_ARGUMENT error."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Return a NOT_FOUND error."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def permission_denied(message: str) -> ServingError:
    """Return a PERMISSION_DENIED error."""
    return ServingError(grpc.StatusCode.PERMISSION_DENIED, message)


def unavailable(message: str) -> ServingError:
    """Return an UNAVAILABLE error."""
    return ServingError(grpc.StatusCode.UNAVAILABLE, message)


def unimplemented(message: str) -> ServingError:
    """Return an UNIMPLEMENTED error."""
    return ServingError(grpc.StatusCode.UNIMPLEMENTED, message)
