"""Twenty thousand malformed inputs: no decoder crashes, hangs or leaks memory.

Each input is a mutated valid one and depends only on its number: a failure reports the number, and
`generate(number)` returns the input again.
"""

from __future__ import annotations

import gc
import os
import re
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from typing import Any, NamedTuple

import numpy as np
import orjson
import psutil
import pyarrow as pa
import pytest
import requests
from google.protobuf.message import DecodeError

from client import ClientError
from client.codecs.json import explanations, fast
from client.codecs.json import rows as json_rows
from client.codecs.oip import codec as oip
from client.codecs.tables import ARROW, CSV, NDJSON, NPY
from client.codecs.tfs_rest import examples, predict
from client.serving.protos import TensorProto
from client.serving.schema import Schema
from client.serving.tensors import STRING, from_proto, to_proto
from tests.client import schemas
from tests.client.bodies import INFER_SEEDS, ROWS, TABLES, arrow, csv, ndjson, npy, objects
from tests.client.checking import check, check_refusal, check_table
from tests.support.tables import breast_cancer

# FUZZ_INPUTS=2000000 searches longer.
INPUTS = int(os.environ.get("FUZZ_INPUTS", "20_000"))
# By then all modules are loaded and all caches are filled.
WARM_UP = 10_000
MAX_GROWTH_BYTES = 16 * 2**20
# CPU time of this thread, so that other work does not count; most inputs take about 0.1 ms.
MAX_SECONDS = 1.0
MALFORMED_REQUESTS = 1_500

NUMERIC, MIXED, EVERY_TYPE = schemas.numeric(), schemas.mixed(), schemas.every_type()
ONE_INPUT = [
    schemas.schema(x=spec)
    for spec in (
        schemas.COLUMN,
        schemas.spec("FLOAT", None, 2),
        schemas.spec("DOUBLE", None, 2),
        schemas.spec("STRING", None),
    )
]
EXPLAINED = schemas.with_explain(MIXED)
MODELS = (NUMERIC, MIXED, EVERY_TYPE, *ONE_INPUT, EXPLAINED)

Decode = Callable[[bytes, Schema, Random], None]


class Decoder(NamedTuple):
    """A reader, and valid inputs to it."""

    name: str
    decode: Decode
    seeds: Sequence[bytes]


REQUESTS = [
    {"instances": [[1, 2.5, -3e5], [4, 5, 6]]},
    {"instances": [{"a": 1, "b": 2, "c": 3}, {"c": 1e-40, "b": -0.0, "a": 3}]},
    {"inputs": {"a": [1, 2], "b": [3, 4], "c": [5, 6]}},
    {"instances": objects(ROWS), "signature_name": "serving_default"},
    {"inputs": ROWS},
    {"instances": [{"x": [1, 2], "s": "a"}, {"x": [3, 4], "s": {"b64": "YWI="}}]},
    {"instances": [1.5, 2, 3]},
    {"inputs": [[1, 2], [3, 4]]},
    {"instances": ["a", '\u20ac\\"', {"b64": "AAE="}]},
    {"instances": [[n, n / 7] for n in range(400)]},
    {"inputs": {"x": [n / 7 for n in range(800)]}},
]
BODIES = [orjson.dumps(request) for request in REQUESTS]
# Without nulls and base64, which only the slow path reads.
FAST_PATH_BODIES = [body for body in BODIES if b"null" not in body and b"b64" not in body]
# Requests that do not need the model's description.
UNDESCRIBED_BODIES = [body for body in BODIES[1:] if b"null" not in body]
EXAMPLES = [
    b'{"examples": [{"a": 1.5, "b": [1, 2], "c": "x"}, {"a": {"b64": "AAE="}}]}',
    b'{"signature_name": "s", "context": {"q": [1]}, "examples": [{}, {"q": ["a", "b"]}]}',
]


def binary_inference() -> list[bytes]:
    """Return requests with binary tensor data after their JSON."""
    bodies = []
    for name, datatype, data in (
        ("x", "FP32", np.ones([2, 2], "<f4").tobytes()),
        ("x", "FP64", np.ones([2, 2], "<f8").tobytes()),
        ("x", "BYTES", struct.pack("<I2sI1s", 2, b"ab", 1, b"c")),
    ):
        shape = [2, 2] if datatype != "BYTES" else [2]
        parameters = {"binary_data_size": len(data)}
        tensor = {"name": name, "datatype": datatype, "shape": shape, "parameters": parameters}
        bodies.append(orjson.dumps({"inputs": [tensor]}) + data)
    return bodies


TENSORS = [
    to_proto(array, dtype).SerializeToString()
    for array, dtype in (
        (np.ones([3, 2], np.float32), schemas.FLOAT),
        (np.array([b"a", b"", b"bc"], object), STRING),
        (np.arange(4), schemas.INT64),
    )
] + [
    TensorProto(
        dtype=dtype, tensor_shape={"dim": [{"size": 2}]}, **{field: values}
    ).SerializeToString()
    for dtype, field, values in (
        (6, "int_val", [1, -2]),
        (5, "int_val", [300, -1]),  # one bit away from a uint8
        (19, "half_val", [1, 2]),
        (10, "bool_val", [True, False]),
        (18, "dcomplex_val", [1, 2, 3, 4]),
    )
]


def json_decoder(read: Callable[[bytes, Schema], Any], *, any_shape: bool = False) -> Decode:
    def decode(body: bytes, schema: Schema, random: Random) -> None:
        decoded = read(body, schema)
        if decoded is None:
            raise ClientError("left to the slow path")
        check(decoded.call, schema, any_shape=any_shape)

    return decode


def read_examples(body: bytes, schema: Schema, random: Random) -> None:
    examples.read(body)[1].SerializeToString()


def read_inference(body: bytes, schema: Schema, random: Random) -> None:
    length: str | None = str(body.rfind(b"}") + 1)
    if not random.randrange(4):
        length = random.choice([None, str(random.randrange(500))])
    check(oip.read(body, schema, length).call, schema)


def table_decoder(content_type: str) -> Decode:
    def decode(body: bytes, schema: Schema, random: Random) -> None:
        size = random.choice([7, 100, 2**16])
        check_table(content_type, body, size, schema)

    return decode


def read_tensor(body: bytes, schema: Schema, random: Random) -> None:
    """Read a tensor of a model server's response; invalid ones raise ClientError."""
    try:
        from_proto(TensorProto.FromString(body))
    except (DecodeError, OverflowError, ValueError) as error:
        raise ClientError(str(error), 501) from error


DECODERS = (
    Decoder("rest", json_decoder(predict.read, any_shape=True), BODIES),
    Decoder("rest, fast path", json_decoder(fast.read), FAST_PATH_BODIES),
    Decoder(
        "rest, slow path", json_decoder(predict.read_strictly, any_shape=True), UNDESCRIBED_BODIES
    ),
    Decoder("json", json_decoder(json_rows.read), BODIES),
    Decoder("explain", json_decoder(explanations.read), [orjson.dumps({"inputs": ROWS})]),
    Decoder("classify", read_examples, EXAMPLES),
    Decoder("oip", read_inference, INFER_SEEDS),
    Decoder("oip, binary", read_inference, binary_inference()),
    *(Decoder(name, table_decoder(name), TABLES[name]) for name in (CSV, NDJSON, NPY, ARROW)),
    Decoder("response", read_tensor, TENSORS),
)


def is_valid(decoder: Decoder, seed: bytes, schema: Schema) -> bool:
    for number in range(9):  # some random header lengths are wrong
        with suppress(ClientError):
            decoder.decode(seed, schema, Random(number))
            return True
    return False


# Valid inputs of each decoder, with their models.
VALID = {
    decoder.name: [(s, m) for s in decoder.seeds for m in MODELS if is_valid(decoder, s, m)]
    for decoder in DECODERS
}

VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9.]+(?:[eE][-+]?[0-9]+)?|\w+')
TOKEN = re.compile(VALUE.pattern + rb"|[^\s\w]")
# JSON values, which keep a body well-formed.
UNUSUAL_VALUES = (
    *(b"null", b"true", b"-0", b"1e-400", b"9" * 40, b"2.0", b"-1", b"0", b"127", b"1e38", b"1e39"),
    *(b'""', b'"\\ud800"', b'"\\u0000"', b'{"b64":"*"}', b'{"b64":"AAE="}', b'"x"', b'"7"', b"[]"),
    *(b"{}", b"[1]", b"[[[[1]]]]", b"[1,2,3,4]", b'"\\u20ac"', b"18446744073709551615"),
)
# Tokens that usually make a body malformed.
MALFORMED_TOKENS = (
    *(b"NaN", b"-Infinity", b"1e999", b"01", b"[" * 600, b"\xff\xfe", b"\xef\xbb\xbf", b"'", b'"'),
    *(b"\xed\xa0\x80", b"\0", b"\r\n", b",", b",,", b"]", b"}", b"\\"),
)
NUMBERS = (0, 1, -1, 2**7, 2**15, 2**31 - 1, -(2**31), 2**32 - 1, 2**62, 2**63 - 1, -(2**63))


def flip_bits(body: bytearray, other: bytes, random: Random) -> None:
    for _ in range(random.randint(1, 4)):
        body[random.randrange(len(body))] ^= 1 << random.randrange(8)


def replace_digit(body: bytearray, other: bytes, random: Random) -> None:
    digits = [m.start() for m in re.finditer(rb"\d", body)]
    if digits:
        body[random.choice(digits)] = random.choice(b"0123456789")


def truncate(body: bytearray, other: bytes, random: Random) -> None:
    del body[random.randrange(len(body)) :]


def cut_out(body: bytearray, other: bytes, random: Random) -> None:
    start = random.randrange(len(body))
    del body[start : start + random.choice([1, 2, 4, 8, 60])]


def repeat(body: bytearray, other: bytes, random: Random) -> None:
    start = random.randrange(len(body))
    body[start:start] = body[start : start + random.choice([1, 4, 8, 60])]


def splice(body: bytearray, other: bytes, random: Random) -> None:
    body[random.randrange(len(body)) :] = other[random.randrange(len(other)) :]


def swap_tokens(body: bytearray, other: bytes, random: Random) -> None:
    replace_match(body, TOKEN, MALFORMED_TOKENS, random)


def swap_values(body: bytearray, other: bytes, random: Random) -> None:
    replace_match(body, VALUE, UNUSUAL_VALUES, random)


def replace_match(
    body: bytearray, pattern: re.Pattern[bytes], unusual: Sequence[bytes], random: Random
) -> None:
    """Replace a match with an unusual one, or with a neighbour."""
    # Most of the time, start at an element.
    start = max(0, body.rfind(b",", 0, random.randrange(len(body))))
    matches = list(pattern.finditer(body, start, min(len(body), start + 300)))
    if matches:
        replacement = random.choice([random.choice(matches)[0], random.choice(unusual)])
        body[slice(*random.choice(matches).span())] = replacement


def overwrite_number(body: bytearray, other: bytes, random: Random) -> None:
    packed = struct.pack("<q", random.choice(NUMBERS))[: random.choice([1, 2, 4, 8])]
    # Aligned, as numbers in binary formats are.
    start = random.randrange(len(body)) // len(packed) * len(packed)
    body[start : start + len(packed)] = packed


CHANGES = (
    *(flip_bits, replace_digit, truncate, cut_out, repeat, splice, swap_tokens, overwrite_number),
    *[swap_values] * 6,
)


def mutate(seed: bytes, seeds: Sequence[bytes], random: Random) -> bytes:
    body = bytearray(seed)
    for _ in range(random.choice([1, 1, 1, 1, 2, 3])):
        if body:
            random.choice(CHANGES)(body, random.choice(seeds), random)
    return bytes(body)


def generate(number: int) -> tuple[Decoder, bytes, Schema, Random]:
    """Return an input, its decoder, its model, and the other random choices."""
    random = Random(number)
    decoder = DECODERS[number % len(DECODERS)]
    seed, schema = random.choice(VALID[decoder.name])
    if not random.randrange(8):
        schema = random.choice(MODELS)
    return decoder, mutate(seed, decoder.seeds, random), schema, random


def resident_bytes() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_seeds_are_valid(decoder: Decoder) -> None:
    assert {seed for seed, _ in VALID[decoder.name]} == set(decoder.seeds)


def test_malformed_inputs_are_decoded_or_rejected_quickly_without_leaks() -> None:
    before, slowest, outcomes = 0, (0.0, 0), dict.fromkeys((d.name for d in DECODERS), (0, 0))
    for number in range(INPUTS):
        if number == WARM_UP:
            before = resident_bytes()
        decoder, body, schema, random = generate(number)
        accepted, rejected = outcomes[decoder.name]
        started = time.thread_time()
        try:
            decoder.decode(body, schema, random)
            accepted += 1
        except ClientError as error:
            check_refusal(error)
            assert len(error.message) < 5000, number  # noqa: PT017
            rejected += 1
        except Exception as error:
            raise AssertionError(f"input {number} of {decoder.name}: {body!r}") from error
        slowest = max(slowest, (time.thread_time() - started, number))
        outcomes[decoder.name] = accepted, rejected
    assert slowest[0] < MAX_SECONDS, slowest
    assert resident_bytes() - before < MAX_GROWTH_BYTES
    # If nearly all had the same outcome, little would have been tested.
    rejection_rates = {name: n / (accepted + n) for name, (accepted, n) in outcomes.items()}
    assert all(0.05 < rate < 0.99 for rate in rejection_rates.values()), rejection_rates


def test_malformed_requests_do_not_change_later_responses(client_url: str) -> None:
    table = breast_cancer()
    columns = {name: table.features[:3, i].tolist() for i, name in enumerate(table.columns)}
    rows = objects(columns)
    matrix = np.array(list(columns.values()), np.float32).T
    tensors = [
        {"name": name, "datatype": "FP32", "shape": [3], "data": values}
        for name, values in columns.items()
    ]
    rows_body = orjson.dumps({"instances": rows})
    classify = orjson.dumps({"signature_name": "classification", "examples": rows})
    model = "/v1/models/breast_cancer"
    forms: list[tuple[str, str, list[bytes]]] = [
        (f"{model}:predict", "application/json", [rows_body, orjson.dumps({"inputs": columns})]),
        ("/predict", "application/json", [rows_body, orjson.dumps({"instances": matrix.tolist()})]),
        ("/explain", "application/json", [rows_body]),
        (f"{model}:classify", "application/json", [classify]),
        ("/v2/models/breast_cancer/infer", "application/json", [orjson.dumps({"inputs": tensors})]),
        ("/predict", CSV, [csv(columns)]),
        ("/predict", NDJSON, [ndjson(columns)]),
        ("/predict", NPY, [npy(matrix)]),
        ("/predict", ARROW, [arrow(pa.table(columns))]),
    ]
    with requests.Session() as session:

        def post(form: tuple[str, str, list[bytes]], body: bytes) -> requests.Response:
            headers = {"Content-Type": form[1], "Accept": "application/json"}
            return session.post(client_url + form[0], data=body, headers=headers, timeout=10)

        def valid_responses() -> list[bytes]:
            responses = [post(form, form[2][0]) for form in forms]
            assert [response.status_code for response in responses] == [200] * len(forms)
            return [response.content for response in responses]

        before = valid_responses()
        for number in range(MALFORMED_REQUESTS):
            random, form = Random(number), forms[number % len(forms)]
            body = mutate(random.choice(form[2]), form[2], random)
            response = post(form, body)
            assert response.status_code in (200, 400, 413, 415), (
                number,
                form[0],
                body,
                response.text,
            )
            if response.status_code != 200:
                assert response.json()["error"]
        assert valid_responses() == before
