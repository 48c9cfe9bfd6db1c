from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from client.serving.protos import DataType
from client.serving.schema import Description
from tests.support.tables import breast_cancer, fit_table
from training.data import datasets as builtin
from training.data.reading import FrameFile, Source
from training.data.table import Choice
from training.export import warmup
from training.export.serving_module import TrainedModel, export
from training.features.boolean import BooleanColumn
from training.features.categorical import CategoricalColumn
from training.features.columns import Column
from training.features.date import DateColumn
from training.features.encoder import Encoder
from training.features.numeric import NumericColumn
from training.pipeline import Candidate, fit
from training.publishing.saved_version import SavedVersion
from training.settings import FitSettings

NEWTON = FitSettings(optimizer="newton")
CUSTOMERS = 20_000

Floats = npt.NDArray[np.float64]


def make_customers() -> pl.DataFrame:
    """Return the built-in table with additional columns that are independent of the label."""
    random = np.random.default_rng(1)
    missing = pl.Series(random.random(CUSTOMERS) < 0.1)
    return builtin.customers(CUSTOMERS).with_columns(
        plan=pl.Series(random.choice(["x", "y", "z"], CUSTOMERS)).set(missing, None),
        code=pl.Series(random.choice([1, 2, 30], CUSTOMERS)).set(missing, None),
        agreed=pl.Series(random.random(CUSTOMERS) < 0.5).set(missing, None),
    )


@dataclass(frozen=True)
class ExportedModel:
    """A model, its exported version, and the inputs and outputs of its signatures."""

    model: TrainedModel
    version: SavedVersion
    signatures: Mapping[str, Any]


def export_model(model: TrainedModel, directory: Path) -> ExportedModel:
    export(model, directory)
    stored = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
    return ExportedModel(model, SavedVersion(directory), stored.meta_graphs[0].signature_def)


@pytest.fixture(scope="module")
def candidate() -> Candidate:
    source = Source("customers", [FrameFile("customers", make_customers())])
    return fit(source, Choice("churned", kinds={"code": "categorical"}), NEWTON)


@pytest.fixture(scope="module")
def mixed(candidate: Candidate, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export_model(candidate.model, tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def numeric(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export_model(fit_table(NEWTON).model, tmp_path_factory.mktemp("numeric"))


@pytest.fixture(scope="module")
def rows(candidate: Candidate) -> pl.DataFrame:
    """Held-out rows, followed by rows with values that are not in the table."""
    held_out = candidate.held_out.frame[:500].fill_nan(None)
    assert sum(held_out.null_count().row(0)) > 50
    unusual = held_out[:4].with_columns(
        income=pl.Series([None, 1e6, 0, None], dtype=pl.Float32),
        contract=pl.Series(["", "weekly", None, "Monthly"]),
        region=pl.Series(["99", None, "30", "-1"]),
        plan=pl.Series([None, "", "w", "x"]),
        code=pl.Series(["", "30", "31", None]),
        agreed=pl.Series(["true", None, "maybe", ""]),
    )
    return pl.concat([held_out, unusual])


def weights_by_feature(model: TrainedModel) -> dict[str, float]:
    names = [feature.name for feature in Encoder(model.columns).features]
    return dict(zip(names, model.weights.tolist(), strict=True))


def compute_contributions(model: TrainedModel, frame: pl.DataFrame) -> Floats:
    """Return each column's contribution to the log-odds, computed from the weights."""
    weights = iter(model.weights.tolist())
    contributions = {column.name: np.zeros(len(frame)) for column in model.columns}
    numbers = [column for column in model.columns if column.kind == "numeric"]
    for column in numbers:
        values = frame[column.name].cast(pl.Float32).cast(pl.Float64).fill_null(float("nan"))
        scaled = (values.to_numpy() - column.mean) / column.deviation
        contributions[column.name] += np.nan_to_num(scaled) * next(weights)
    for column in numbers:
        if column.missing:
            contributions[column.name] += frame[column.name].is_null().to_numpy() * next(weights)
    for column in model.columns:
        if column.kind == "boolean":
            contributions[column.name] += (frame[column.name] == "true").to_numpy() * next(weights)
        elif column.kind == "categorical":
            weight_of = {value: next(weights) for value in column.vocabulary}
            other_weight = next(weights)
            missing_weight = next(weights) if column.missing else other_weight
            contributions[column.name] += [
                weight_of.get(value, other_weight) if value else missing_weight
                for value in frame[column.name]
            ]
    assert list(weights) == []
    return np.stack(list(contributions.values()), axis=1)


def make_inputs(model: TrainedModel, frame: pl.DataFrame) -> dict[str, npt.NDArray[Any]]:
    """Return rows in the form that `serving_module` describes."""
    inputs: dict[str, npt.NDArray[Any]] = {}
    for column in model.columns:
        values = frame[column.name].to_list()
        if column.kind == "numeric":
            numbers = [np.nan if value is None else value for value in values]
            inputs[column.name] = np.array(numbers, np.float32)
        elif column.kind == "boolean":
            inputs[column.name] = np.array([value == "true" for value in values])
        elif column.dtype == tf.int64:
            inputs[column.name] = np.array([int(value or -7) for value in values], np.int64)
        else:
            inputs[column.name] = np.array([(value or "").encode() for value in values], object)
    return inputs


def make_examples(
    model: TrainedModel, frame: pl.DataFrame, leave_out: tuple[str, ...] = ()
) -> npt.NDArray[Any]:
    """Return rows as serialized `tf.Example`s without their missing values."""
    serialized = []
    for row in frame.iter_rows(named=True):
        example = tf.train.Example()
        for column in model.columns:
            value = row[column.name]
            if column.name in leave_out or (column.missing and not value and value != 0):
                continue
            feature = example.features.feature[column.name]
            if column.kind == "numeric":
                feature.float_list.value.append(value)
            elif column.kind == "boolean":
                feature.int64_list.value.append(int(value == "true"))
            elif column.dtype == tf.int64:
                feature.int64_list.value.append(int(value or -7))
            else:
                feature.bytes_list.value.append((value or "").encode())
        serialized.append(example.SerializeToString())
    return np.array(serialized, object)


def assert_predicts(model: TrainedModel, frame: pl.DataFrame, outputs: Mapping[str, Any]) -> None:
    logit = compute_contributions(model, frame).sum(axis=1) + model.bias
    probability = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(outputs["logit"], logit, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outputs["probability"], probability, atol=1e-6)
    expected = [model.class_names[int(p >= model.threshold)].encode() for p in probability]
    assert outputs["label"].tolist() == expected


def describe_tensors(tensors: Mapping[str, Any]) -> dict[str, tuple[Any, list[int]]]:
    return {
        name: (tf.as_dtype(t.dtype), [dimension.size for dimension in t.tensor_shape.dim])
        for name, t in tensors.items()
    }


INPUT_SPECS = {
    "tenure": (tf.float32, [-1]),
    "monthly charges": (tf.float32, [-1]),
    "income": (tf.float32, [-1]),
    "contract": (tf.string, [-1]),
    "region": (tf.int64, [-1]),
    "paperless": (tf.bool, [-1]),
    "plan": (tf.string, [-1]),
    "code": (tf.string, [-1]),
    "agreed": (tf.string, [-1]),
}
OUTPUT_SPECS = {
    "probability": (tf.float32, [-1]),
    "logit": (tf.float32, [-1]),
    "label": (tf.string, [-1]),
}


def test_mixed_table_has_documented_signatures(mixed: ExportedModel) -> None:
    signatures = {
        name: (
            signature.method_name,
            describe_tensors(signature.inputs),
            describe_tensors(signature.outputs),
        )
        for name, signature in mixed.signatures.items()
        if not name.startswith("__")
    }
    describe = signatures.pop("describe")
    method = "tensorflow/serving/predict"
    serialized = (tf.string, [-1])
    explained = {"contribution": (tf.float32, [-1, 9]), "bias": (tf.float32, [-1])}
    classified = {"classes": (tf.string, [-1, 2]), "scores": (tf.float32, [-1, 2])}
    regressed = {"outputs": (tf.float32, [-1])}
    assert signatures == {
        "serving_default": (method, INPUT_SPECS, OUTPUT_SPECS),
        "explain": (method, INPUT_SPECS, explained),
        "classification": ("tensorflow/serving/classify", {"inputs": serialized}, classified),
        "regression": ("tensorflow/serving/regress", {"inputs": serialized}, regressed),
    }
    assert describe[:2] == (method, {"query": (tf.int32, [-1])})


def test_only_numeric_table_has_dense_signature(
    numeric: ExportedModel, mixed: ExportedModel
) -> None:
    signature = numeric.signatures["dense"]
    assert describe_tensors(signature.inputs) == {"features": (tf.float32, [-1, 30])}
    assert describe_tensors(signature.outputs) == OUTPUT_SPECS
    assert "dense" not in mixed.signatures


def test_predictions_follow_from_weights(mixed: ExportedModel, rows: pl.DataFrame) -> None:
    inputs = make_inputs(mixed.model, rows)
    assert_predicts(mixed.model, rows, mixed.version.run("serving_default", inputs))


def test_training_and_version_give_same_outputs(mixed: ExportedModel, candidate: Candidate) -> None:
    held_out = candidate.held_out
    outputs = mixed.version.run("serving_default", mixed.model.inputs(held_out.frame))
    np.testing.assert_allclose(held_out.probabilities, outputs["probability"], atol=1e-6)
    contributions = compute_contributions(mixed.model, held_out.frame.fill_nan(None))
    np.testing.assert_allclose(held_out.expected.contributions, contributions, rtol=1e-9, atol=1e-9)
    logit = contributions.sum(axis=1) + mixed.model.bias
    np.testing.assert_allclose(held_out.probabilities, 1 / (1 + np.exp(-logit)), rtol=1e-9)


def test_missing_and_unknown_values_have_their_own_weights(mixed: ExportedModel) -> None:
    weights = weights_by_feature(mixed.model)
    row = {name: values[:1] for name, values in mixed.model.inputs(customer_row()).items()}

    def contribution(name: str, value: Any) -> float:
        inputs = {**row, name: np.array([value], row[name].dtype)}
        contributions = mixed.version.run("explain", inputs)["contribution"]
        return float(contributions[0, list(INPUT_SPECS).index(name)])

    for name, value, feature in (
        ("income", np.nan, "income is missing"),
        ("plan", b"", "plan is missing"),
        ("plan", b"w", "plan is another"),
        ("plan", b"x", "plan = x"),
        ("code", b"", "code is missing"),
        ("code", b"30", "code = 30"),
        ("agreed", b"", "agreed is missing"),
        ("agreed", b"true", "agreed = true"),
        ("contract", b"", "contract is another"),
        ("contract", b"Monthly", "contract is another"),
        ("contract", b"monthly", "contract = monthly"),
        ("region", 0, "region is another"),
        ("region", 30, "region = 30"),
        ("paperless", True, "paperless is true"),
    ):
        assert contribution(name, value) == pytest.approx(weights[feature], abs=1e-6), (name, value)
    assert contribution("paperless", False) == 0
    assert contribution("tenure", np.nan) == 0


def customer_row() -> pl.DataFrame:
    frame = make_customers().drop_nulls()[:1]
    return frame.with_columns(pl.col("region", "code", "paperless", "agreed").cast(pl.String))


def test_explain_splits_logit_into_column_contributions(
    mixed: ExportedModel, rows: pl.DataFrame
) -> None:
    inputs = make_inputs(mixed.model, rows)
    explained = mixed.version.run("explain", inputs)
    expected = compute_contributions(mixed.model, rows)
    np.testing.assert_allclose(explained["contribution"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(explained["bias"], np.full(len(rows), mixed.model.bias), rtol=1e-6)
    total = explained["contribution"].sum(axis=1) + explained["bias"]
    logit = mixed.version.run("serving_default", inputs)["logit"]
    np.testing.assert_allclose(total, logit, rtol=1e-5, atol=1e-5)


def test_dense_matches_serving_default(numeric: ExportedModel) -> None:
    matrix = breast_cancer().features.astype(np.float32)
    matrix[::7, 3] = np.nan
    frame = pl.DataFrame(matrix, [column.name for column in numeric.model.columns])
    frame = frame.fill_nan(None)
    by_column = numeric.version.run("serving_default", make_inputs(numeric.model, frame))
    dense = numeric.version.run("dense", {"features": matrix})
    assert_predicts(numeric.model, frame, dense)
    for name, values in by_column.items():
        np.testing.assert_array_equal(dense[name], values)


def test_describe_repeats_description_for_each_query(mixed: ExportedModel) -> None:
    facts = mixed.version.run("describe", {"query": np.array([0, -1, 7], np.int32)})
    for name, values in facts.items():
        assert len(values) == 3, name
        np.testing.assert_array_equal(values[0], values[2])
    description = {name: values.tolist()[1] for name, values in facts.items()}
    columns = mixed.model.columns
    assert description.pop("columns") == [name.encode() for name in INPUT_SPECS]
    kinds = [b"numeric"] * 3 + [b"categorical"] * 2 + [b"boolean"] + [b"categorical"] * 3
    assert description.pop("kinds") == kinds
    assert description.pop("missing") == [
        name in ("income", "plan", "code", "agreed") for name in INPUT_SPECS
    ]
    lengths = description.pop("vocabulary_lengths")
    assert lengths == [0, 0, 0, 3, 4, 2, 3, 3, 2]
    values = iter(description.pop("vocabulary_values"))
    vocabularies = [[next(values).decode() for _ in range(length)] for length in lengths]
    assert list(values) == []
    assert vocabularies == [list(column.vocabulary) for column in columns]
    assert vocabularies[3] == ["monthly", "one year", "two years"]
    assert set(vocabularies[4]) == {"10", "20", "30", "40"}
    assert vocabularies[5] == ["false", "true"]
    for name in ("mean", "deviation", "minimum", "maximum"):
        assert description.pop(f"{name}s") == [getattr(column, name) for column in columns]
    assert description.pop("class_means") == [[c.class_means[i] for c in columns] for i in (0, 1)]
    modes = description.pop("class_modes")
    assert modes == [[c.class_modes[i] for c in columns] for i in (0, 1)]
    assert [mode[:3] for mode in modes] == [[-1, -1, -1]] * 2
    assert vocabularies[4][modes[1][4]] == "30"
    assert description.pop("modes") == [-1, -1, -1, 0, 0, columns[5].mode, 0, 0, 0]
    assert columns[5].vocabulary[columns[5].mode] == "true"
    assert description.pop("label_name") == b"churned"
    assert description.pop("class_names") == [b"no", b"yes"]
    assert description.pop("threshold") == 0.5
    assert description.pop("trained_at").decode() == mixed.model.trained_at
    metrics = zip(description.pop("metric_names"), description.pop("metric_values"), strict=True)
    assert {name.decode(): value for name, value in metrics} == mixed.model.metrics
    assert "auc" in mixed.model.metrics
    assert [tuple(bounds) for bounds in description.pop("metric_intervals")] == list(
        mixed.model.intervals.values()
    )
    assert description.pop("reference").decode() == mixed.model.reference
    assert description.pop("golden").decode() == mixed.model.golden
    assert description == {}


def test_describe_returns_missing_marks_and_date_forms(tmp_path: Path) -> None:
    columns = (NumericColumn("x"), DateColumn("day", form="%d/%m/%Y"))
    model = replace(make_model(columns), missing_marks=("-999",))
    facts = export_model(model, tmp_path).version.run("describe", {"query": np.zeros(1, np.int32)})
    assert facts["missing_marks"].tolist() == [[b"-999"]]
    assert facts["date_forms"].tolist() == [[b"year-month-day", b"%d/%m/%Y"]]
    number, day = Description.from_outputs(facts).columns
    assert number.parse("-999", DataType.Value("DT_DOUBLE")) is None
    assert day.parse("03/04/1970", DataType.Value("DT_DOUBLE")) == 92


def test_describe_rejects_more_than_1024_queries(mixed: ExportedModel) -> None:
    assert (
        len(mixed.version.run("describe", {"query": np.zeros(1024, np.int32)})["columns"]) == 1024
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="describe takes at most 1024 queries"):
        mixed.version.run("describe", {"query": np.zeros(1025, np.int32)})


def test_classify_and_regress_read_absent_features_as_missing(
    mixed: ExportedModel, rows: pl.DataFrame
) -> None:
    serialized = make_examples(mixed.model, rows)
    logit = compute_contributions(mixed.model, rows).sum(axis=1) + mixed.model.bias
    probability = 1 / (1 + np.exp(-logit))
    classified = mixed.version.run("classification", {"inputs": serialized})
    scores = np.stack([1 - probability, probability], axis=1)
    np.testing.assert_allclose(classified["scores"], scores, atol=1e-6)
    assert classified["classes"].tolist() == [[b"no", b"yes"]] * len(rows)
    regressed = mixed.version.run("regression", {"inputs": serialized})
    np.testing.assert_allclose(regressed["outputs"], probability, atol=1e-6)


@pytest.mark.parametrize("column", ["tenure", "contract", "region", "paperless"])
def test_example_without_required_feature_is_rejected(
    mixed: ExportedModel, rows: pl.DataFrame, column: str
) -> None:
    serialized = make_examples(mixed.model, rows[:2], leave_out=(column,))
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{column} .*is required"):
        mixed.version.run("regression", {"inputs": serialized})


def test_fit_recovers_coefficients_that_generated_customers(mixed: ExportedModel) -> None:
    model, frame = mixed.model, make_customers()
    weights = weights_by_feature(model)
    deviations = {column.name: column.deviation for column in model.columns}
    contract, region = "contract = one year", "region = 10"
    # The usual parametrisation: categories are relative to a reference category.
    design = {
        "1": (None, np.ones(CUSTOMERS)),
        "tenure": (-0.8 / 15, frame["tenure"]),
        "monthly charges": (0.5 / 20, frame["monthly charges"]),
        "income": (0.0, frame["income"].fill_null(strategy="mean")),
        "income is missing": (0.4, frame["income"].is_null()),
        "contract = monthly": (1.2, frame["contract"] == "monthly"),
        "contract = two years": (-0.7, frame["contract"] == "two years"),
        "region = 20": (0.0, frame["region"] == "20"),
        "region = 30": (0.9, frame["region"] == "30"),
        "region = 40": (0.0, frame["region"] == "40"),
        "paperless is true": (-0.6, frame["paperless"]),
    }
    matrix = np.stack([np.asarray(values, np.float64) for _, values in design.values()], axis=1)
    text = pl.col("region", "code", "paperless", "agreed").cast(pl.String)
    inputs = model.inputs(frame.with_columns(text))
    probability = mixed.version.run("serving_default", inputs)["probability"].astype(np.float64)
    scale = matrix.std(axis=0) + (matrix.std(axis=0) == 0)
    scaled = matrix / scale * np.sqrt(probability * (1 - probability) * 0.7)[:, np.newaxis]
    errors = np.sqrt(np.diag(np.linalg.inv(scaled.T @ scaled))) / scale
    for (name, (true_value, _)), error in zip(design.items(), errors.tolist(), strict=True):
        if true_value is None:
            continue
        reference = {"contract": contract, "region": region}.get(name.split(" ")[0])
        estimate = weights[name] / deviations.get(name, 1.0) - weights.get(reference or "", 0.0)
        assert abs(estimate - true_value) < 4 * error, name
        assert error < 0.1


HOSTILE_NAMES = (
    *(
        "a b",
        'quo"te',
        "it's",
        "ünï",
        "日本",
        "line\nbreak",
        "x/y",
        "x.y",
        "x:0",
        "%s {}",
        "9",
        "_",
    ),
    *("self", "class", "None", "lambda", "name", "args", "kwargs", "inputs", "query", "features"),
    *("column_0", "column_1", "column_1_", "Column_2", "a", "A", "a_1", "Age", "age", "AGE_1"),
)


def make_column(position: int, name: str) -> Column:
    categorical = CategoricalColumn(name, vocabulary=("u", "é", "7"), class_modes=(0, 1))
    return (
        NumericColumn(name, missing=True, mean=3.0, deviation=2.0, class_means=(1.0, 5.0)),
        BooleanColumn(name, vocabulary=("false", "true"), class_modes=(1, 0)),
        categorical,
        replace(categorical, missing=True),
        replace(categorical, vocabulary=("7", "-3", "9007199254740993")),
        NumericColumn(name, mean=-1e6, deviation=1e3, class_means=(-1e6, -1e6)),
    )[position % 6]


def make_model(columns: tuple[Column, ...]) -> TrainedModel:
    random = np.random.default_rng(0)
    weights = random.normal(size=len(Encoder(columns).features))
    trained_at = "2025-01-02T03:04:05+00:00"
    return TrainedModel(columns, weights, -0.25, ("no", "yes"), 0.3, trained_at, {"auc": 0.75}, "y")


def make_rows(columns: tuple[Column, ...]) -> pl.DataFrame:
    random = np.random.default_rng(1)
    frame: dict[str, pl.Series] = {}
    for column in columns:
        if column.kind == "numeric":
            values = pl.Series(random.normal(column.mean, column.deviation, 50), dtype=pl.Float32)
            missing = column.missing & (random.random(50) < 0.3)
            frame[column.name] = values.set(pl.Series(missing), None)
        elif column.kind == "boolean":
            frame[column.name] = pl.Series(random.choice(column.vocabulary, 50))
        else:
            unknown = "8" if column.dtype == tf.int64 else "unknown"
            choices = [*column.vocabulary, unknown, None]
            drawn = [choices[i] for i in random.integers(0, len(choices), 50)]
            frame[column.name] = pl.Series(drawn, dtype=pl.String)
    return pl.DataFrame(frame)


@pytest.mark.parametrize(
    "columns",
    [
        tuple(make_column(i, name) for i, name in enumerate(HOSTILE_NAMES)),
        (make_column(1, "class"),),
        (make_column(2, "A"), make_column(3, "a")),
        (make_column(4, "n"),),
        (CategoricalColumn("nothing", missing=True), make_column(0, "n")),
    ],
    ids=["hostile names", "boolean", "strings", "integers", "string that was always missing"],
)
def test_columns_of_any_kind_and_name_are_served(
    tmp_path: Path, columns: tuple[Column, ...]
) -> None:
    exported = export_model(make_model(columns), tmp_path)
    model, version, frame = exported.model, exported.version, make_rows(columns)
    names = {column.name for column in columns}
    assert set(exported.signatures["serving_default"].inputs) == names
    assert set(exported.signatures["explain"].inputs) == names
    inputs = make_inputs(model, frame)
    assert_predicts(model, frame, version.run("serving_default", inputs))
    contribution = version.run("explain", inputs)["contribution"]
    np.testing.assert_allclose(
        contribution, compute_contributions(model, frame), rtol=1e-4, atol=1e-5
    )
    regressed = version.run("regression", {"inputs": make_examples(model, frame)})["outputs"]
    predicted = version.run("serving_default", inputs)["probability"]
    np.testing.assert_allclose(regressed, predicted, atol=1e-6)
    facts = version.run("describe", {"query": np.zeros(1, np.int32)})
    assert facts["columns"][0].tolist() == [column.name.encode() for column in columns]


def test_warm_up_requests_succeed(
    mixed: ExportedModel, numeric: ExportedModel, tmp_path: Path
) -> None:
    for exported in (mixed, numeric):
        warmup.write(exported.model, tmp_path)
        calls = {c.signature_name: c for c in warmup.read_calls(tmp_path / warmup.WARMUP_FILE)}
        predicted = {"serving_default", "explain", "describe"}
        assert set(calls) == predicted | ({"dense"} if exported is numeric else set())
        for call in calls.values():
            exported.version.run(call.signature_name, call.inputs)
        # The average row of each class is predicted as that class.
        by_column = exported.version.run("serving_default", calls["serving_default"].inputs)
        assert [name.decode() for name in by_column["label"]] == list(exported.model.class_names)


def test_export_to_unwritable_directory_raises_os_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OSError, match="file"):
        export(make_model((make_column(1, "a"),)), file)
