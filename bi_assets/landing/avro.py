"""Avro in Confluent's framing: a zero byte, four of a schema id, the body as its writer's schema says.

pyruhvro makes Arrow columns of a whole batch in one go. It knows no bytes, so it is given them out for
texts, which look the same on the wire; what numbers and bytes mean is `wire`'s business. Schemas
beyond it, and messages that it fails on, go one by one through fastavro.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.compute as pc
import pyruhvro

from bi_assets.contracts.contract import Contract
from bi_assets.landing.avro_schema import Node, SchemaError, look_through
from bi_assets.landing.flattened import PREFIX, SOURCE_FIELDS, op_sql
from bi_assets.landing.parts import Part, Told
from bi_assets.landing.rows import SOURCE, Layout
from bi_assets.landing.schema_registry import SchemaRegistry, UnknownSchemaError
from bi_assets.landing.wire import name_of, of_avro
from bi_assets.sql import quote

FRAME = 5
"""Bytes before the body."""
_TO_THE_END = 1 << 40
_END = "the end"
_ENDING = bytes([2 * len(_END)]) + _END.encode()
"""An Avro text after each body: where it is not found, the body was not of its schema."""
_FEW = 64  # messages that are not worth another halving
_PLACE = ("partition", "offset", "timestamp_ms")
_Path = tuple[str, ...]


class Reader:
    """Reads the messages of one writer schema, and of these the columns that a contract names."""

    def __init__(self, root: Node, contract: Contract) -> None:
        """Errors: `SchemaError` where the schema is that of no row and no envelope."""
        top = root.fields
        self.is_flat = "op" not in top or not ({"before", "after"} & top.keys())
        images = ["row"] if self.is_flat else [name for name in ("before", "after") if name in top]
        row = root if self.is_flat else top[images[-1]]
        if not row.fields:
            raise SchemaError("its schema is neither an envelope's nor a row's")
        self.fields = frozenset(n for n in row.fields if not (self.is_flat and n.startswith(PREFIX)))
        known = {name: node for name, node in row.fields.items() if name in contract.names}
        self.layout = Layout(
            wires={name: node.wire for name, node in known.items()},
            source=self._source(top),
            read=of_avro,
            is_flat=self.is_flat,
        )
        self._paths: dict[str, tuple[_Path, Node]] = {}
        if self.is_flat:
            self._paths = {f"after {name}": ((name,), node) for name, node in known.items()}
            told = {**SOURCE_FIELDS, "__op": "op", "__deleted": "deleted"}
            self._paths |= {f"source {told[n]}": ((n,), node) for n, node in top.items() if n in told}
        else:
            for image in images:
                of_image = top[image].fields
                self._paths |= {
                    f"{image} {name}": ((image, name), of_image[name]) for name in known if name in of_image
                }
            source = top["source"].fields if "source" in top else {}
            self._paths |= {f"source {n}": (("source", n), source[n]) for n in SOURCE if n in source}
            self._paths |= {f"envelope {n}": ((n,), top[n]) for n in ("op", "ts_ms") if n in top}
        self._images = images
        framed = Node("record", (("value", root), ("end", Node("string"))))
        self._is_plain = framed.is_plain
        self._as_texts = json.dumps(framed.avro(bytes_are_texts=True))
        self._schema: Any = fastavro.parse_schema(framed.avro(bytes_are_texts=False))

    def _source(self, top: Mapping[str, Node]) -> frozenset[str]:
        if self.is_flat:
            return frozenset(SOURCE_FIELDS[name] for name in top if name in SOURCE_FIELDS)
        return frozenset(top["source"].fields) & frozenset(SOURCE) if "source" in top else frozenset()

    def relation(self) -> str:
        """Return SQL for the relation that `rows` wants, of a table that `decode` has returned."""
        if self.is_flat:
            op = op_sql(*(name_of("source", n) if f"source {n}" in self._paths else None
                          for n in ("op", "deleted")))  # fmt: skip
            return f"SELECT *, {op} AS op, true AS has_image, false AS has_before FROM part"
        has = {
            name: quote(f"has {name}") if name in self._images else "false" for name in ("before", "after")
        }
        columns = [
            f"NULL AS {name_of(image, name)}"
            for image in ("before", "after")
            for name in self.layout.wires
            if f"{image} {name}" not in self._paths
        ]
        op = quote("envelope op")
        kept = "*"
        if "envelope ts_ms" in self._paths and "ts_ms" in self.layout.source:
            # Some versions leave a snapshot row's time at 0; the envelope's is right there.
            at, sent = name_of("source", "ts_ms"), name_of("envelope", "ts_ms")
            is_left = f"{op} = 'r' AND coalesce({at}, 0) = 0"
            kept = f"* REPLACE (CASE WHEN {is_left} THEN {sent} ELSE {at} END AS {at})"
        columns += [
            f"{op} AS op",
            f"CASE WHEN {op} = 'd' THEN {has['before']} ELSE {has['after']} END AS has_image",
            f"{has['before']} AS has_before",
        ]
        return f"SELECT {kept}, {', '.join(columns)} FROM part"

    def decode(self, messages: pa.Table) -> tuple[pa.Table, pa.Table]:
        """Return the messages' columns, and the messages that are not of the schema."""
        values = messages.column("value").combine_chunks()
        bodies = pc.binary_join_element_wise(
            pc.binary_slice(values, FRAME, _TO_THE_END),
            pa.scalar(_ENDING, pa.large_binary()),
            pa.scalar(b"", pa.large_binary()),
        ).to_pylist()
        sound, broken = [], []
        for start, count, columns in self._read(bodies, 0, len(bodies)):
            piece = messages.slice(start, count)
            if columns is None:
                broken.append(piece)
            else:
                place = {name: piece.column(name) for name in _PLACE}
                sound.append(pa.table({**place, **columns}))
        empty = messages.slice(0, 0)
        return pa.concat_tables(sound) if sound else empty, pa.concat_tables(broken) if broken else empty

    def _read(
        self, bodies: list[bytes], start: int, count: int
    ) -> Iterator[tuple[int, int, dict[str, pa.Array] | None]]:
        """Yield (first message, how many, their columns): None where they can't be read."""
        if self._is_plain:
            columns = self._read_all(bodies[start : start + count])
            if columns is not None:
                yield start, count, columns
                return
            if count > _FEW:
                middle = count // 2
                yield from self._read(bodies, start, middle)
                yield from self._read(bodies, start + middle, count - middle)
                return
        values: list[Any] = []
        for body in bodies[start : start + count]:
            try:
                values.append(self._read_one(body))
            except Exception:
                values.append(None)
        for at, length, is_sound in _runs(values):
            run = values[at : at + length]
            yield start + at, length, self._of_values(run) if is_sound else None

    def _read_all(self, bodies: list[bytes]) -> dict[str, pa.Array] | None:
        try:
            batch = pyruhvro.deserialize_array(bodies, self._as_texts)
            if not pc.all(pc.equal(batch.column("end"), _END)).as_py():
                return None
            return self._columns(batch.column("value"))
        except (ValueError, pa.ArrowInvalid):
            return None

    def _columns(self, value: pa.StructArray) -> dict[str, pa.Array]:
        """Errors: `ArrowInvalid` where a text is not UTF-8: pyruhvro does not look."""
        columns = {f"has {n}": value.field(n).is_valid() for n in self._images if not self.is_flat}
        for name, (path, node) in self._paths.items():
            column = pc.struct_field(value, list(path))
            if node.wire.kind == "other":  # what it is, nobody will ask
                column = pc.if_else(column.is_valid(), node.type, pa.scalar(None, pa.string()))
            elif node.type == "bytes":
                column = column.view(pa.binary())
            elif node.type == "string":
                column.validate(full=True)
            columns[name] = column
        return columns

    def _read_one(self, body: bytes) -> dict[str, Any]:
        read: Any = fastavro.schemaless_reader(io.BytesIO(body), self._schema, None)
        if read["end"] != _END:
            raise ValueError("not of this schema")
        value: dict[str, Any] = read["value"]
        return value

    def _of_values(self, values: list[Any]) -> dict[str, pa.Array]:
        columns = {
            f"has {n}": pa.array([value[n] is not None for value in values])
            for n in self._images
            if not self.is_flat
        }
        for name, (path, node) in self._paths.items():
            found = [_at(value, path) for value in values]
            if node.wire.kind == "other":
                found = [None if one is None else node.type for one in found]
            columns[name] = pa.array(found, node.arrow)
        return columns


def _at(value: Any, path: _Path) -> Any:
    for name in path:
        value = value and value[name]
    return value


def _runs(values: list[Any]) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, how many, whether they are any) of each run of values that are, or are not, None."""
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or (values[i] is None) != (values[start] is None):
            yield start, i - start, values[start] is not None
            start = i


def schema_ids(column: pa.ChunkedArray) -> dict[bytes, int]:
    """Return the frames that begin these values (none null), and the schema ids that they give."""
    frames = pc.unique(pc.binary_slice(column, 0, FRAME)).to_pylist()
    return {frame: int.from_bytes(frame[1:]) for frame in frames if len(frame) == FRAME}


def tell_apart(contract: Contract, messages: pa.Table, registry: SchemaRegistry) -> Told:
    """Return the parts of these messages, one for each writer schema.

    Errors: `RegistryAwayError`.
    """
    frames = pc.binary_slice(messages.column("value"), 0, FRAME)
    told = Told()
    known = schema_ids(messages.column("value"))
    for frame in pc.unique(frames).to_pylist():
        group = (
            messages.filter(pc.equal(frames, pa.scalar(frame, frames.type))) if len(known) > 1 else messages
        )
        if frame not in known:
            told.refuse(group, "too short for Avro: there is no schema id")
            continue
        try:
            reader = _reader(contract, known[frame], registry)
        except (UnknownSchemaError, SchemaError) as error:
            told.refuse(group, str(error))
            continue
        rows, broken = reader.decode(group)
        told.refuse(broken, f"Avro that is not of its schema, {known[frame]}")
        if rows.num_rows:
            fields = dict.fromkeys(reader.fields, rows.num_rows)
            timed = "ts_ms" in reader.layout.source
            told.parts.append(Part(rows, reader.relation(), reader.layout, fields, timed))
    return told


def _reader(contract: Contract, number: int, registry: SchemaRegistry) -> Reader:
    return _made(contract, json.dumps(registry.schema(number)))


@lru_cache(maxsize=256)
def _made(contract: Contract, schema: str) -> Reader:
    return Reader(look_through(json.loads(schema)), contract)


def value(message: bytes, registry: SchemaRegistry) -> Any:
    """Return one message as Python values; for the few that are read alone, such as keys.

    Errors: `ValueError` where it can't be read; `RegistryAwayError`.
    """
    try:
        root = look_through(registry.schema(int.from_bytes(message[1:FRAME])))
        schema: Any = fastavro.parse_schema(root.avro(bytes_are_texts=False))
        return fastavro.schemaless_reader(io.BytesIO(message[FRAME:]), schema, None)
    except (UnknownSchemaError, SchemaError, EOFError, IndexError, TypeError) as error:
        raise ValueError(str(error)) from error
