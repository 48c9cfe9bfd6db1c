"""TensorFlow Serving's paths beyond what the recordings hold."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.codecs.tfs_rest.routes import METHODS, Question, route
from client.http.messages import HttpReply, HttpRequest
from client.serving.client import Target


@pytest.mark.parametrize(
    ("method", "path", "verb", "target"),
    [
        ("POST", "/v1/models/m:predict", "predict", Target("m")),
        ("POST", "/V1/Models/M/Versions/007:classify", "classify", Target("M", 7)),
        ("POST", "/v1/models/m/labels/a%2Fb%3Ac:regress", "regress", Target("m", label="a/b:c")),
        ("GET", "/v1/models/%C3%A9%20+", "status", Target("é +")),
        ("GET", "/v1/models/%FF", "status", Target("\ufffd")),
        ("GET", "/v1/models/m/versions/9223372036854775807", "status", Target("m", 2**63 - 1)),
        ("GET", "/v1/models/m/versions/3/metadata", "metadata", Target("m", 3)),
        ("GET", "/v1/models/m/METADATA", "status", Target("m")),
        ("GET", "/v1/models/versions", "status", Target("versions")),
        ("GET", "/v1/models/m.n-o_p", "status", Target("m.n-o_p")),
    ],
)
def test_a_path_says_what_is_asked_of_which_model(
    method: str, path: str, verb: str, target: Target
) -> None:
    assert route(HttpRequest(method, path)) == Question(verb, target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/"),
        ("GET", "/v1/models/m:predict"),
        ("POST", "/v1/models/m/metadata"),
        ("POST", "/v1/models/m/versions/1.5:predict"),
        ("POST", "/v1/models/m/versions/\u0663:predict"),
        ("POST", "/v1/models/m:PREDICT"),
        ("POST", "/v1/models/a%zz:explain"),
        ("GET", "/v1/models/m:explain"),
        ("POST", "/v1/models/m:predict\n"),
        ("GET", "/v1/models/m/labels/%x"),
        ("PUT", "/v1/models/m"),
        ("DELETE", "/v1/models/m"),
    ],
)
def test_another_path_or_method_is_malformed(method: str, path: str) -> None:
    reply = route(HttpRequest(method, path))
    assert isinstance(reply, HttpReply)
    assert reply.status == 400
    assert orjson.loads(reply.body) == {"error": f"Malformed request: {method} {path}"}


@pytest.mark.parametrize("version", ["9223372036854775808", "1" * 5000, "0" * 30 + "1" * 20])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m/versions/{}:predict",
        "/v1/models/m/versions/{}:explain",
        "/v1/models/m/versions/{}",
    ],
)
def test_a_version_beyond_an_int64_is_refused(path: str, version: str) -> None:
    method = "POST" if ":" in path else "GET"
    reply = route(HttpRequest(method, path.format(version)))
    assert isinstance(reply, HttpReply)
    assert reply.status == 400
    assert orjson.loads(reply.body) == {"error": "version: expected at most 9223372036854775807"}


@pytest.mark.parametrize("path", ["/v1/models/versions/1", "/v1/models/labels/a/metadata"])
def test_a_version_needs_a_model(path: str) -> None:
    reply = route(HttpRequest("GET", path))
    assert isinstance(reply, HttpReply)
    assert orjson.loads(reply.body) == {"error": "Missing model name in request."}


def test_a_query_is_not_looked_at_but_quoted() -> None:
    asked = route(HttpRequest("GET", "/v1/models/m", "x=1"))
    assert asked == Question("status", Target("m"))
    reply = route(HttpRequest("GET", "/v1/models/m/", "x=1"))
    assert isinstance(reply, HttpReply)
    assert orjson.loads(reply.body)["error"] == "Malformed request: GET /v1/models/m/?x=1"


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/m", "/metrics", "//v1/models/m", ""])
def test_other_paths_are_for_others(path: str) -> None:
    assert route(HttpRequest("GET", path)) is None


@given(
    st.sampled_from([*METHODS, "TRACE", "get"]),
    st.lists(
        st.one_of(
            st.sampled_from(
                ["/v1/", "models", "/", "m", "versions", "labels", "1", ":", "predict", "%41", "%"]
            ),
            st.text(max_size=3),
        )
    ).map("".join),
)
def test_any_path_is_a_question_a_reply_or_for_others(method: str, path: str) -> None:
    asked = route(HttpRequest(method, path))
    if isinstance(asked, HttpReply):
        assert asked.status in (200, 400, 501)
    elif asked is not None:
        asked.target.spec()
