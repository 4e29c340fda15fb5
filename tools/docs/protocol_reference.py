"""docs/protocol.md: services, calls, messages and fields, made of the .proto files with their comments."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)
from grpc_tools import protoc

from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

PACKAGE = "paceline.v1"
WELL_KNOWN = Path(grpc_tools.__file__).parent / "_proto"
# Those that people ask first; others follow by name.
FIRST = ("generation", "types", "router", "verifier", "drafting", "trainer", "admin")
HEAD = f"""# Protocol

<!-- Made by tools/docs/generate.py of protos/paceline/v1; don't edit. -->

Protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}, package `{PACKAGE}`, over gRPC. Peers with the same major version
understand each other; a minor version adds what is optional ([protos/CHANGELOG.md](../protos/CHANGELOG.md) says what
came when). Servers have reflection and `grpc.health.v1`. A refusal is a gRPC status with one `google.rpc.ErrorInfo`,
whose reasons are in [errors.md](errors.md). What a `.proto` can't say (how an anchor's digest and the noise are
made) is in `paceline.wire`, see [protos/README.md](../protos/README.md). OpenAI's HTTP API, which the router serves
too, is in [packages/router](../packages/router/README.md#openais-http-api).
"""

Path_ = tuple[int, ...]
# Numbers of fields in descriptor.proto, by which comments are found.
_FILE_MESSAGE, _FILE_ENUM, _FILE_SERVICE = 4, 5, 6
_MESSAGE_FIELD, _MESSAGE_NESTED, _MESSAGE_ENUM, _MESSAGE_ONEOF = 2, 3, 4, 8
_ENUM_VALUE, _SERVICE_METHOD = 2, 2


@dataclass(frozen=True)
class Commented:
    """A file, and what its comments say by the place of what they stand above."""

    file: FileDescriptorProto
    comments: Mapping[Path_, str]

    def about(self, *place: int) -> str:
        return self.comments.get(place, "")


def protocol_reference(protos: Path) -> str:
    """The page. The same for the same files.

    Args:
        protos: folder with paceline/v1.
    """
    files = _read(protos)
    parts = [HEAD, "## Services\n"]
    for one in files:
        parts.extend(_service(one, index) for index in range(len(one.file.service)))
    for one in files:
        parts.append(f"## {Path(one.file.name).name}\n\n{_line(_lead(protos / one.file.name))}\n")
        parts.extend(_enum(one, enum, (_FILE_ENUM, index)) for index, enum in enumerate(one.file.enum_type))
        for index, message in enumerate(one.file.message_type):
            parts.extend(_message(one, message, (_FILE_MESSAGE, index)))
    return "\n".join(parts)


def _read(protos: Path) -> list[Commented]:
    sources = [path.relative_to(protos).as_posix() for path in sorted((protos / "paceline" / "v1").glob("*.proto"))]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "descriptors"
        line = ["protoc", f"-I{protos}", f"-I{WELL_KNOWN}", f"--descriptor_set_out={out}", "--include_source_info"]
        if protoc.main([*line, *sources]):
            raise SystemExit(f"protoc can't read {protos}")
        found = FileDescriptorSet.FromString(out.read_bytes()).file
    places = {name: place for place, name in enumerate(FIRST)}
    return [
        Commented(one, {tuple(at.path): at.leading_comments for at in one.source_code_info.location})
        for one in sorted(found, key=lambda one: (places.get(Path(one.name).stem, len(FIRST)), one.name))
    ]


def _lead(path: Path) -> str:
    """The comment at the head of a file."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("//"):
            break
        lines.append(line.removeprefix("//").strip())
    return "\n".join(lines)


def _service(one: Commented, index: int) -> str:
    service = one.file.service[index]
    rows = [f"### {service.name}\n"]
    if about := _line(one.about(_FILE_SERVICE, index)):
        rows.append(f"{about}\n")
    rows += ["| call | takes | gives | meaning |", "|---|---|---|---|"]
    for number, method in enumerate(service.method):
        about = _cell(one.about(_FILE_SERVICE, index, _SERVICE_METHOD, number))
        rows.append(f"| {method.name} | {_side(method, True)} | {_side(method, False)} | {about} |")
    return "\n".join(rows) + "\n"


def _side(method: MethodDescriptorProto, request: bool) -> str:
    kind, streams = (
        (method.input_type, method.client_streaming) if request else (method.output_type, method.server_streaming)
    )
    return f"{'stream of ' if streams else ''}{_link(kind)}"


def _message(one: Commented, message: DescriptorProto, place: Path_, within: str = "") -> Iterator[str]:
    """The message's section, and those of what is declared inside it; entries of maps are no messages to a reader."""
    name = f"{within}{message.name}"
    maps = {f".{PACKAGE}.{name}.{entry.name}": entry for entry in message.nested_type if entry.options.map_entry}
    rows = [f"### {name}\n"]
    if about := _line(one.about(*place)):
        rows.append(f"{about}\n")
    if message.field:
        rows += ["| field | number | type | meaning |", "|---|---|---|---|"]
    else:
        rows.append("No fields.")
    for index, field in enumerate(message.field):
        said = _cell(one.about(*place, _MESSAGE_FIELD, index))
        if choice := _choice(message, field):
            said = f"{said}{' ' if said else ''}*(one of `{choice}`)*"
        rows.append(f"| {field.name} | {field.number} | {_type(field, maps)} | {said} |")
    yield "\n".join(rows) + "\n"
    for index, enum in enumerate(message.enum_type):
        yield _enum(one, enum, (*place, _MESSAGE_ENUM, index), f"{name}.")
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(one, nested, (*place, _MESSAGE_NESTED, index), f"{name}.")


def _choice(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    """The oneof that a field belongs to; those that protoc makes for `optional` are none."""
    if not field.HasField("oneof_index") or field.proto3_optional:
        return ""
    return message.oneof_decl[field.oneof_index].name


def _enum(one: Commented, enum: EnumDescriptorProto, place: Path_, within: str = "") -> str:
    rows = [f"### {within}{enum.name}\n"]
    if about := _line(one.about(*place)):
        rows.append(f"{about}\n")
    rows += ["| value | number | meaning |", "|---|---|---|"]
    for index, value in enumerate(enum.value):
        rows.append(f"| {value.name} | {value.number} | {_cell(one.about(*place, _ENUM_VALUE, index))} |")
    return "\n".join(rows) + "\n"


def _type(field: FieldDescriptorProto, maps: Mapping[str, DescriptorProto]) -> str:
    if entry := maps.get(field.type_name):
        return f"map of {_type(entry.field[0], {})} to {_type(entry.field[1], {})}"
    scalar = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    kind = _link(field.type_name) if field.type_name else scalar
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    return f"optional {kind}" if field.proto3_optional else kind


def _link(type_name: str) -> str:
    name = type_name.removeprefix(f".{PACKAGE}.")
    return f"[{name}](#{name.lower().replace('.', '')})" if name != type_name else name.removeprefix(".")


def _line(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")
