"""What Kafka Connect's converters make of one change: every serialisation form, from one Connect schema.

The Avro is that of Confluent's and Apicurio's converters: optional fields are unions with null, semantic
types are `connect.name`s, decimals are bytes with a logical type.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import fastavro

from shop.schema import TABLES
from tests.oracle import Message

DECIMAL = "org.apache.kafka.connect.data.Decimal"
FORMS = ("json", "json with schema", "avro")
_AVRO = {
    "int8": "int", "int16": "int", "int32": "int", "int64": "long", "float": "float", "double": "double",
    "boolean": "boolean", "string": "string", "bytes": "bytes",
}  # fmt: skip
_SOURCE = {
    "version": "string", "connector": "string", "name": "string", "ts_ms": "int64", "snapshot": "string",
    "db": "string", "sequence": "string", "ts_us": "int64", "ts_ns": "int64", "table": "string",
    "server_id": "int64", "gtid": "string", "file": "string", "pos": "int64", "row": "int32",
    "thread": "int64", "query": "string",
}  # fmt: skip


@dataclass(frozen=True)
class Field:
    """A field of a Connect struct: `type` is Connect's, `name` the semantic type."""

    type: str
    name: str = ""
    scale: int = 0
    optional: bool = True
    fields: Mapping[str, Field] = field(default_factory=dict)

    def json(self, name: str = "") -> dict[str, Any]:
        """Return the schema as JsonConverter embeds it."""
        schema: dict[str, Any] = {"type": self.type, "optional": self.optional}
        if self.name:
            schema |= {"name": self.name, "version": 1}
        if self.name == DECIMAL:
            schema["parameters"] = {"scale": str(self.scale), "connect.decimal.precision": "40"}
        if self.type == "struct":
            schema["fields"] = [field.json(name) for name, field in self.fields.items()]
        return schema | ({"field": name} if name else {})

    def avro(self, seen: dict[str, Any]) -> Any:
        """Return the schema as the Avro converter registers it; a struct that comes again is a name."""
        if self.type == "struct":
            name, _, last = self.name.rpartition(".")
            schema: Any = self.name
            if seen.setdefault(self.name, self) is self and f"{self.name} written" not in seen:
                seen[f"{self.name} written"] = True
                schema = {
                    "type": "record",
                    "name": last,
                    "namespace": name,
                    "fields": [
                        {
                            "name": name,
                            "type": field.avro(seen),
                            **({"default": None} if field.optional else {}),
                        }
                        for name, field in self.fields.items()
                    ],
                    "connect.name": self.name,
                }
        elif self.name:
            schema = {"type": _AVRO[self.type], "connect.version": 1, "connect.name": self.name}
            if self.name == DECIMAL:
                parameters = {"scale": str(self.scale), "connect.decimal.precision": "40"}
                schema |= {
                    "scale": self.scale, "precision": 40, "logicalType": "decimal",
                    "connect.parameters": parameters,
                }  # fmt: skip
            elif self.name.startswith("org.apache.kafka.connect.data."):
                schema["logicalType"] = "date" if self.name.endswith("Date") else "timestamp-millis"
        else:
            schema = _AVRO[self.type]
        return ["null", schema] if self.optional else schema


def unscaled(value: Decimal, scale: int) -> bytes:
    """Return a decimal's unscaled value as Java's BigInteger writes it."""
    number = int(value.scaleb(scale))
    return number.to_bytes((number if number >= 0 else -number - 1).bit_length() // 8 + 1, signed=True)


def struct(name: str, fields: Mapping[str, Field], *, optional: bool = True) -> Field:
    """Return a struct."""
    return Field("struct", name, optional=optional, fields=fields)


def envelope(topic: str, row: Mapping[str, Field]) -> Field:
    """Return Debezium's envelope around a row."""
    value = struct(f"{topic}.Value", row)
    source = {
        name: Field(kind, optional=name not in ("ts_ms", "file", "pos")) for name, kind in _SOURCE.items()
    }
    block = {"id": Field("string", optional=False), "total_order": Field("int64", optional=False)}
    return struct(
        f"{topic}.Envelope",
        {
            "before": value,
            "after": value,
            "source": struct("io.debezium.connector.mysql.Source", source, optional=False),
            "transaction": struct("event.block", block),
            "op": Field("string", optional=False),
            "ts_ms": Field("int64"),
            "ts_us": Field("int64"),
            "ts_ns": Field("int64"),
        },
        optional=False,
    )


class Registry:
    """Schemas by id; `serve` answers for them by HTTP as a registry does."""

    def __init__(self) -> None:
        self.schemas: list[str] = []
        self.asked: list[str] = []

    def register(self, schema: Any) -> int:
        """Return the id of a schema, as of an automatic registration."""
        text = json.dumps(schema)
        if text not in self.schemas:
            self.schemas.append(text)
        return self.schemas.index(text) + 1

    def frame(self, schema: Field, value: Any) -> bytes:
        """Return a message in Avro."""
        written = schema.avro({})
        number = self.register(written)
        body = io.BytesIO()
        fastavro.schemaless_writer(body, fastavro.parse_schema(json.loads(json.dumps(written))), value)
        return b"\0" + number.to_bytes(4) + body.getvalue()

    @contextmanager
    def serve(self, port: int = 0) -> Iterator[str]:
        """Answer on a loopback port until the end of the block; gives the URL."""
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append(self.path)
                code, answer = registry.answer(self.path, self.headers.get("Authorization"))
                self.send_response(code)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def answer(self, path: str, authorization: str | None) -> tuple[int, Any]:
        """Return the status and the body of an answer."""
        if path == "/subjects":
            return 200, []
        number = int(path.rpartition("/")[2])
        if not 1 <= number <= len(self.schemas):
            return 404, {"error_code": 40403, "message": "Schema not found"}
        return 200, {"schema": self.schemas[number - 1]}


def in_form(form: str, message: Message, registry: Registry) -> Message:
    """Return a message of schemaless JSON in another form; decimals become bytes.

    Rows of a table may have other columns from message to message: so may their schemas.
    """
    if message.value is None or form == "json":
        return message
    event = json.loads(message.value)
    table = message.topic.rpartition(".")[2]
    image = event["after"] or event["before"]
    names = list(dict.fromkeys([*(event["before"] or ()), *(event["after"] or ())])) if image else []
    row = {
        name: _of_column(table, name, [(event[i] or {}).get(name) for i in ("before", "after")])
        for name in names
    }
    schema = envelope(message.topic, row)
    for part in ("before", "after"):
        if event[part]:
            event[part] = {name: _value(row[name], event[part].get(name), form) for name in names}
    event = {name: event[name] for name in schema.fields}
    if form == "avro":
        value = registry.frame(schema, event)
    else:
        value = json.dumps({"schema": schema.json(), "payload": event}, separators=(",", ":")).encode()
    return message._replace(value=value)


def _of_column(table: str, name: str, values: list[Any]) -> Field:
    column = TABLES[table].by_name.get(name)
    if column is None:
        whole = all(isinstance(value, int | None) for value in values)
        return Field("int64") if whole else Field("string")
    match column.base_type:
        case "decimal":
            return Field("bytes", DECIMAL, column.scale or 0)
        case "datetime":
            return Field("int64", "io.debezium.time.Timestamp")
        case "date":
            return Field("int32", "io.debezium.time.Date")
        case "enum":
            return Field("string", "io.debezium.data.Enum")
    return Field(
        {"bigint": "int64", "int": "int32", "tinyint": "int16", "double": "double"}.get(
            column.base_type, "string"
        )
    )


def _value(column: Field, value: Any, form: str) -> Any:
    if column.name == DECIMAL and value is not None:
        if form == "avro":
            return Decimal(value)
        return base64.b64encode(unscaled(Decimal(value), column.scale)).decode()
    return value
