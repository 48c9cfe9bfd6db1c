"""The schema that callers of a version depend on, and its changes between versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress

import numpy as np

from training.export.serving_module import TrainedModel
from training.features.cells import ISO_DATES
from training.publishing.manifest import Manifest
from training.publishing.saved_version import SavedVersion


@dataclass(frozen=True)
class Schema:
    """The columns of requests, and the classes in responses.

    Attributes:
        columns: kind and dtype of each column, in order.
        optional: names of the columns that requests may leave out.
        date_forms: form of each date column, see `DateParser`.
        label: name of the label column; empty if it is unknown.
        classes: names of class 0 and class 1.
        dense: whether a signature takes all columns as one matrix, so that their order matters.
    """

    columns: Mapping[str, tuple[str, str]]
    optional: frozenset[str]
    date_forms: Mapping[str, str]
    label: str
    classes: tuple[str, str]
    dense: bool


def from_model(model: TrainedModel) -> Schema:
    """Return the schema of a fitted model."""
    return Schema(
        {column.name: (column.kind, column.dtype.name) for column in model.columns},
        frozenset(column.name for column in model.columns if column.missing),
        {column.name: column.form for column in model.columns if column.kind == "date"},
        model.label_name,
        model.class_names,
        model.is_numeric,
    )


def from_version(version: SavedVersion, manifest: Manifest | None) -> Schema:
    """Return the schema of a published version.

    Raises:
        KeyError: a signature, output or input that this job's models have is missing.
    """
    description = version.run("describe", {"query": np.zeros(1, np.int32)})
    names, kinds, classes = (
        [text.decode() for text in description[name][0]]
        for name in ("columns", "kinds", "class_names")
    )
    forms = [ISO_DATES] * len(names)
    if "date_forms" in description:
        forms = [form.decode() for form in description["date_forms"][0]]
    dtypes = version.input_dtypes("serving_default")
    label = manifest.data.label if manifest else ""
    if manifest and not label:  # an earlier release's manifest; the label is not in requests
        candidates = [name for name in manifest.data.columns if name not in names]
        label = candidates[0] if len(candidates) == 1 else ""
    return Schema(
        {name: (kind, dtypes[name]) for name, kind in zip(names, kinds, strict=True)},
        frozenset(compress(names, description["missing"][0])),
        {n: form for n, kind, form in zip(names, kinds, forms, strict=True) if kind == "date"},
        label,
        (classes[0], classes[1]),
        version.has_signature("dense"),
    )


def changes(before: Schema, after: Schema) -> tuple[str, ...]:
    """Return the changes that callers of `before` must adapt to, one line each."""
    lines = [f"column {name!r} is dropped" for name in before.columns if name not in after.columns]
    for name, (kind, dtype) in after.columns.items():
        if name not in before.columns:
            lines.append(f"column {name!r} ({kind}) is new")
        elif before.columns[name] != (kind, dtype):
            old_kind, old_dtype = before.columns[name]
            lines.append(
                f"column {name!r} changes from {old_kind} ({old_dtype}) to {kind} ({dtype})"
            )
    if not lines and before.dense and list(before.columns) != list(after.columns):
        lines.append("the order of the columns changes, on which the signature 'dense' depends")
    for name in before.columns:
        if name in before.optional and name in after.columns and name not in after.optional:
            lines.append(f"column {name!r} may no longer be left out")
    for name, form in before.date_forms.items():
        new_form = after.date_forms.get(name, form)
        if new_form != form:
            lines.append(f"column {name!r}: dates change from {form} to {new_form}")
    if before.label and before.label != after.label:
        lines.append(f"the label changes from {before.label!r} to {after.label!r}")
    if before.classes == after.classes[::-1]:
        lines.append(f"class 1 changes from {before.classes[1]!r} to {after.classes[1]!r}")
    elif before.classes != after.classes:
        old, new = (" and ".join(map(repr, s.classes)) for s in (before, after))
        lines.append(f"the classes change from {old} to {new}")
    return tuple(lines)


def are_comparable(before: Schema, after: Schema) -> bool:
    """Return whether the columns, their kinds and dtypes, and the order of classes are the same."""
    return dict(before.columns) == dict(after.columns) and before.classes == after.classes
