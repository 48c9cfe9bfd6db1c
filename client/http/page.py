"""The page at `/`: a form made from the model's description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flask import Blueprint, Response, make_response, render_template

from client.codecs.json.explanations import explains
from client.errors import ClientError
from client.http.flask_bridge import Bridge
from client.serving.client import Target
from client.serving.columns.numeric import plain_number
from client.serving.deadlines import Deadline
from client.serving.schema import DEFAULT_SIGNATURE, Column, Schema, Signature, TensorSpec
from client.serving.tensors import DTYPES, STRING
from client.settings import Settings

FALSE_TRUE = ("false", "true")
# With more values than these, typing is faster than a drop-down list.
MAX_OPTIONS = 50


@dataclass(frozen=True)
class Field:
    """A field of the form.

    Attributes:
        name: the column's name.
        title: the name in readable form.
        type: number, integer, text or boolean: the JSON type of the value.
        hint: the values that training has seen.
        range: the minimum and maximum in training.
        examples: the value in a typical row of each class; the first is filled in.
        options: the values to choose from, if they are few.
        suggestions: suggested values; others may be entered too.
        missing: whether it may be left empty.
    """

    name: str
    title: str
    type: str
    hint: str = ""
    range: tuple[float, float] | None = None
    examples: tuple[str, ...] = ("",)
    options: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    missing: bool = False


def blueprint(bridge: Callable[[], Bridge], settings: Settings) -> Blueprint:
    """Return the routes.

    Args:
        bridge: the bridge to the gateway.
        settings: the application's settings.
    """
    routes = Blueprint("page", __name__, template_folder="templates", static_folder="static")

    @routes.get("/")
    def page() -> Response:
        try:
            to = bridge()
            asked = to.gateway.core.metadata(Target(settings.model), Deadline(settings.timeout))
            schema = to.run(asked)
        except ClientError as error:
            message = error.message
            return make_response(
                render_template("unavailable.html", model=settings.model, message=message),
                error.status,
                {"Retry-After": "2"},
            )
        return make_response(
            render_template(
                "page.html",
                schema=schema,
                description=schema.description,
                fields=fields(schema),
                explains=explains(schema),
            )
        )

    return routes


def fields(schema: Schema) -> list[Field]:
    """Return the form's fields; none if the model's rows do not fit into a form."""
    signature = schema.signatures.get(DEFAULT_SIGNATURE)
    if signature is None or any(s.shape != (None,) for s in signature.inputs.values()):
        return []
    order = schema.column_order(DEFAULT_SIGNATURE)
    if order is None or schema.description is None:
        return [_plain_field(name, signature) for name in sorted(signature.inputs)]
    columns: Mapping[str, Column] = {c.name: c for c in schema.description.columns}
    return [_described_field(columns[name], signature.inputs[name]) for name in order]


def _plain_field(name: str, signature: Signature) -> Field:
    kind = _type(signature.inputs[name])
    return Field(name, _title(name), kind, options=FALSE_TRUE if kind == "boolean" else ())


def _described_field(column: Column, spec: TensorSpec) -> Field:
    examples = tuple(_text(column.example(of_class, spec.dtype)) for of_class in (0, 1))
    many = len(column.vocabulary) > MAX_OPTIONS
    return Field(
        column.name,
        _title(column.name),
        "date" if column.kind == "date" else _type(spec),
        hint=" to ".join(map(column.shown, column.range)) if column.range else "",
        range=column.range,
        examples=examples,
        options=() if many else column.vocabulary,
        suggestions=column.vocabulary if many else (),
        missing=column.takes_missing(spec.dtype),
    )


def _type(spec: TensorSpec) -> str:
    if spec.dtype == STRING:
        return "text"
    kind = DTYPES[spec.dtype].kind if spec.dtype in DTYPES else ""
    return {"b": "boolean", "i": "integer", "u": "integer"}.get(kind, "number")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return plain_number(value, 4) if isinstance(value, float) else str(value)


def _title(name: str) -> str:
    return name.replace("_", " ")
