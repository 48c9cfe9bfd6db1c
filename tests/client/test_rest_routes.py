"""TensorFlow Serving's REST paths that the recordings do not cover."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ClientError
from client.http import paths
from client.http.endpoints.tfs_rest import METHODS, RestRequest, parse
from client.http.messages import HttpRequest
from client.serving.client import Target


def error_message(method: str, path: str, query: str = "") -> str:
    with pytest.raises(ClientError) as caught:
        parse(HttpRequest(method, path, query))
    assert caught.value.status == 400
    return caught.value.message


@pytest.mark.parametrize(
    ("method", "path", "verb", "target"),
    [
        ("POST", "/v1/models/m:predict", ":predict", Target("m")),
        ("POST", "/V1/Models/M/Versions/007:classify", ":classify", Target("M", 7)),
        ("POST", "/v1/models/m/labels/a%2Fb%3Ac:regress", ":regress", Target("m", label="a/b:c")),
        ("GET", "/v1/models/%C3%A9%20+", "", Target("é +")),
        ("GET", "/v1/models/%FF", "", Target("\ufffd")),
        ("GET", "/v1/models/m/versions/9223372036854775807", "", Target("m", 2**63 - 1)),
        ("GET", "/v1/models/m/versions/3/metadata", "/metadata", Target("m", 3)),
        ("GET", "/v1/models/m/METADATA", "", Target("m")),
        ("GET", "/v1/models/versions", "", Target("versions")),
        ("GET", "/v1/models/m.n-o_p", "", Target("m.n-o_p")),
    ],
)
def test_path_is_parsed_into_a_verb_and_a_target(
    method: str, path: str, verb: str, target: Target
) -> None:
    assert parse(HttpRequest(method, path)) == RestRequest(verb, target)


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
def test_other_paths_and_methods_are_malformed(method: str, path: str) -> None:
    assert error_message(method, path) == f"Malformed request: {method} {path}"


@pytest.mark.parametrize("version", ["9223372036854775808", "1" * 5000, "0" * 30 + "1" * 20])
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/m/versions/{}:predict",
        "/v1/models/m/versions/{}:explain",
        "/v1/models/m/versions/{}",
    ],
)
def test_version_beyond_int64_is_rejected(path: str, version: str) -> None:
    method = "POST" if ":" in path else "GET"
    message = error_message(method, path.format(version))
    assert message == "version: expected at most 9223372036854775807"


@pytest.mark.parametrize("path", ["/v1/models/versions/1", "/v1/models/labels/a/metadata"])
def test_version_without_a_model_is_rejected(path: str) -> None:
    assert error_message("GET", path) == "Missing model name in request."


def test_query_is_ignored_and_quoted_in_errors() -> None:
    assert parse(HttpRequest("GET", "/v1/models/m", "x=1")) == RestRequest("", Target("m"))
    message = error_message("GET", "/v1/models/m/", "x=1")
    assert message == "Malformed request: GET /v1/models/m/?x=1"


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/models/m", "/metrics", "//v1/models/m", ""])
def test_paths_outside_v1_are_not_parsed(path: str) -> None:
    assert paths.parse_v1(path) is None


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
def test_any_path_is_parsed_or_rejected(method: str, path: str) -> None:
    with suppress(ClientError):
        request = parse(HttpRequest(method, path))
        assert request is None or request.target.spec()
