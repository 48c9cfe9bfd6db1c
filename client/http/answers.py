"""What the APIs share: a JSON body becomes a prediction, and a reply tells its version."""

from __future__ import annotations

from collections.abc import Callable

from client.codecs import Call, JsonCall
from client.http.messages import HttpReply, HttpRequest
from client.inference.predictor import Predictor
from client.serving.client import Prediction, Target
from client.serving.deadlines import Deadline
from client.serving.schema import Schema

VERSION_HEADER = "X-Model-Version"

ReadJson = Callable[[bytes, Schema], JsonCall]


async def answer_json(
    core: Predictor, target: Target, request: HttpRequest, deadline: Deadline, read: ReadJson
) -> tuple[JsonCall, Prediction]:
    """Predict what a body asks for.

    Args:
        core: predicts.
        target: the model, and the version if one is asked for.
        request: whose body is meant.
        deadline: when the answer is of no more use.
        read: the dialect's reader.

    Returns:
        The request as it was understood, and what was computed.

    Raises:
        ClientError: the request cannot be answered.
    """
    understood: JsonCall | None = None

    def read_call(schema: Schema) -> Call:
        nonlocal understood
        understood = read(request.body, schema)
        return understood.call

    _, prediction = await core.answer(target, read_call, deadline, len(request.body))
    assert understood is not None
    return understood, prediction


def of_version(version: int, body: bytes) -> HttpReply:
    """Return a reply that tells which version has computed it."""
    return HttpReply(body, headers=((VERSION_HEADER, str(version)),))
