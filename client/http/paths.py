"""Paths of the API, for its routes, the names of routes in metrics, and the OpenAPI document."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from client.errors import ClientError
from client.serving.client import Target

PREDICT, EXPLAIN = "/predict", "/explain"
LIVEZ, READYZ, METRICS, STATS, OPENAPI = "/livez", "/readyz", "/metrics", "/stats", "/openapi.json"
FEEDBACK = "/feedback"
# TensorFlow Serving's REST API and the Open Inference Protocol.
V1, V2 = "/v1", "/v2"
V2_LIVE, V2_READY = "/v2/health/live", "/v2/health/ready"
# How the path of a model selects a version.
LATEST, VERSION, LABEL = "", "/versions/{version}", "/labels/{label}"

MAX_VERSION = 2**63 - 1
_MAX_DIGITS = len(str(MAX_VERSION))

_V1 = re.compile(
    r"/v1/models(?:/(?P<model>[^/:]+))?(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
    r"(?P<verb>:(?:predict|classify|regress|explain)|/metadata)?",
    re.IGNORECASE | re.ASCII,
)
_V2 = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?:(?P<version>[0-9]+)|(?P<label>[^/]+)))?"
    r"(?P<verb>/ready|/infer)?"
)
_BAD_ESCAPE = re.compile(r"%(?![0-9a-fA-F]{2})")
_FOREIGN = re.compile(r"/v[12](?:/|$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ModelPath:
    """A path of a model.

    Attributes:
        template: the path with `{model}` and `{version}` or `{label}` in place of the values.
        model: the model's name, None if it is missing.
        version: digits of the version, if there is one.
        label: the version's label, if there is one.
        verb: the rest of the path as sent, such as `:predict`; empty for the model itself.
    """

    template: str
    model: str | None
    version: str | None
    label: str | None
    verb: str

    @property
    def name(self) -> str:
        """The name in metrics: callers must not create time series by inventing names."""
        return self.template.replace("{", "<").replace("}", ">")

    def target(self) -> Target:
        """Return the model, and the version if the path has one.

        Raises:
            ClientError: the version is beyond int64, or there is no model.
        """
        number = None
        if self.version is not None:
            digits = self.version.lstrip("0") or "0"
            number = int(digits) if len(digits) <= _MAX_DIGITS else MAX_VERSION + 1
            if number > MAX_VERSION:
                # TensorFlow Serving returns an empty body with the same status.
                raise ClientError(f"version: expected at most {MAX_VERSION}")
        if self.model is None:
            raise ClientError("Missing model name in request.")
        return Target(self.model, number, self.label)


def template(root: str, selector: str, verb: str = "") -> str:
    """Return the pattern of a model's path."""
    return f"{root}/models/{{model}}{selector}{verb}"


def for_model(pattern: str, model: str) -> str:
    """Return a pattern with a model's name filled in."""
    return pattern.replace("{model}", quote(model, safe=""))


def parse_v1(path: str) -> ModelPath | None:
    """Parse a path of TensorFlow Serving's REST API, which ignores case.

    Args:
        path: percent-encoded, without the query.
    """
    match = None if _BAD_ESCAPE.search(path) else _V1.fullmatch(path)
    return None if match is None else _model_path(V1, match, LABEL)


def parse_v2(path: str) -> ModelPath | None:
    """Parse a path of the Open Inference Protocol.

    A version that is not a number is one of TensorFlow Serving's version labels.

    Args:
        path: percent-encoded, without the query.
    """
    match = _V2.fullmatch(path)
    return None if match is None else _model_path(V2, match, VERSION)


def is_foreign(path: str) -> bool:
    """Return whether a path belongs to a dialect that is not the project's own."""
    return _FOREIGN.match(path) is not None


def _model_path(root: str, match: re.Match[str], label_selector: str) -> ModelPath:
    model, version, label = match["model"], match["version"], match["label"]
    selector = VERSION if version is not None else label_selector if label is not None else LATEST
    verb = match["verb"] or ""
    return ModelPath(
        template(root, selector, verb.lower()),
        None if model is None else unquote(model, errors="replace"),
        version,
        None if label is None else unquote(label, errors="replace"),
        verb,
    )
