"""The one kind of error that a caller of the model server gets to see."""

from __future__ import annotations

import grpc

# TensorFlow Serving cuts longer texts: they travel in a header, which gRPC limits.
MAX_DETAILS = 1024
TRUNCATED = "...TRUNCATED"

_CODES = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request or a load that cannot be done, with the status code TensorFlow Serving gives it."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @classmethod
    def from_number(cls, number: int, message: str) -> ServingError:
        """Make the error from a numeric code, such as a `tf.errors.OpError`'s."""
        return cls(_CODES.get(number, grpc.StatusCode.UNKNOWN), message)

    @property
    def number(self) -> int:
        """The code as `tensorflow.error.Code` numbers it; gRPC uses the same numbers."""
        number: int = self.code.value[0]
        return number

    @property
    def details(self) -> str:
        """The message, cut to what fits into a gRPC status."""
        data = self.message.encode("utf-8", "replace")
        if len(data) <= MAX_DETAILS:
            return self.message
        return data[:MAX_DETAILS].decode("utf-8", "ignore") + TRUNCATED


def invalid_argument(message: str) -> ServingError:
    """Return an INVALID_ARGUMENT error."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def not_found(message: str) -> ServingError:
    """Return a NOT_FOUND error."""
    return ServingError(grpc.StatusCode.NOT_FOUND, message)


def failed_precondition(message: str) -> ServingError:
    """Return a FAILED_PRECONDITION error."""
    return ServingError(grpc.StatusCode.FAILED_PRECONDITION, message)


def permission_denied(message: str) -> ServingError:
    """Return a PERMISSION_DENIED error."""
    return ServingError(grpc.StatusCode.PERMISSION_DENIED, message)


def unimplemented(message: str) -> ServingError:
    """Return an UNIMPLEMENTED error."""
    return ServingError(grpc.StatusCode.UNIMPLEMENTED, message)


def unavailable(message: str) -> ServingError:
    """Return an UNAVAILABLE error."""
    return ServingError(grpc.StatusCode.UNAVAILABLE, message)
