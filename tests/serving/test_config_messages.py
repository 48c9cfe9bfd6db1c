"""The generated configuration messages match the .proto file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

from serving.config import messages_pb2

PROTO = Path(messages_pb2.__file__).with_name("messages.proto")
MESSAGE = re.compile(r"^message (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
FIELD = re.compile(r"^  (repeated )?([\w.]+) (\w+) = (\d+);$", re.MULTILINE)
TYPES = {"TYPE_STRING": "string", "TYPE_BOOL": "bool", "TYPE_INT64": "int64"}


def descriptor_of(message: Any) -> descriptor_pb2.DescriptorProto:
    proto = descriptor_pb2.DescriptorProto()
    message.DESCRIPTOR.CopyToProto(proto)
    return proto


def test_generated_module_matches_the_proto_file() -> None:
    declared = {
        name: [
            (bool(repeated), kind, field, int(number)) for repeated, kind, field, number in fields
        ]
        for name, body in MESSAGE.findall(PROTO.read_text(encoding="utf-8"))
        for fields in [FIELD.findall(body)]
    }
    generated = {
        name: [
            (
                field.label == field.LABEL_REPEATED,
                TYPES.get(field.Type.Name(field.type))
                or field.type_name.removeprefix(".tensorflow.serving.").removeprefix("."),
                field.name,
                field.number,
            )
            for field in descriptor_of(getattr(messages_pb2, name)).field
        ]
        for name in messages_pb2.DESCRIPTOR.message_types_by_name
    }
    assert generated == declared
    assert generated
