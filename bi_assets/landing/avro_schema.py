"""A writer's Avro schema, looked through: names resolved, and told how its data look on the wire."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from bi_assets.landing.schema_registry import Schema
from bi_assets.landing.wire import DECIMAL, TEXTS, Wire

_PRIMITIVES = {
    "boolean": ("boolean", pa.bool_()),
    "int": ("integer", pa.int32()),
    "long": ("integer", pa.int64()),
    "float": ("float", pa.float32()),
    "double": ("float", pa.float64()),
    "string": ("text", pa.string()),
    "bytes": ("bytes", pa.binary()),
    "enum": ("text", pa.string()),
    "fixed": ("bytes", pa.binary()),
    "null": ("other", pa.null()),
}


class SchemaError(Exception):
    """No message of a table can have this schema; the text says why."""


@dataclass(frozen=True)
class Node:
    """A part of a schema.

    `type` is Avro's, "union" where it has more than one branch beside null; `null` the index of null
    in a union that has one other branch; `parts` the fields of a record, the branches of a union,
    the items of an array or map; `meaning` and `scale` the semantic type of a primitive.
    """

    type: str
    parts: tuple[tuple[str, Node], ...] = ()
    null: int | None = None
    meaning: str = ""
    scale: int | None = None
    symbols: tuple[str, ...] = ()
    size: int = 0

    @property
    def fields(self) -> dict[str, Node]:
        """The fields of a record; of anything else, none."""
        return dict(self.parts) if self.type == "record" else {}

    @property
    def wire(self) -> Wire:
        """What a column of this type comes as."""
        kind = _PRIMITIVES[self.type][0] if self.type in _PRIMITIVES else "other"
        return Wire(kind, self.meaning or (self.type if kind == "other" else ""), self.scale)

    @property
    def arrow(self) -> pa.DataType:
        """The Arrow type of a primitive; of anything else, that of its name."""
        return _PRIMITIVES[self.type][1] if self.wire.kind != "other" else pa.string()

    @property
    def is_plain(self) -> bool:
        """Tell whether pyruhvro reads it, where bytes are given out for texts."""
        if self.type in ("union", "fixed"):
            return False
        if self.type in ("array", "map"):
            ((_, items),) = self.parts
            return items.type in _PRIMITIVES and items.null is None and items.is_plain
        return all(part.is_plain for _, part in self.parts)

    def avro(self, *, bytes_are_texts: bool) -> Schema:
        """Return a schema of the same data, with neither logical types nor references."""
        return self._avro(bytes_are_texts, itertools.count())

    def _avro(self, bytes_are_texts: bool, names: Iterator[int]) -> Schema:
        parts = [(name, part._avro(bytes_are_texts, names)) for name, part in self.parts]
        bare: Schema = self.type
        match self.type:
            case "record":
                fields = [{"name": name, "type": part} for name, part in parts]
                bare = {"type": "record", "name": f"n{next(names)}", "fields": fields}
            case "union":
                return [part for _, part in parts]
            case "array":
                bare = {"type": "array", "items": parts[0][1]}
            case "map":
                bare = {"type": "map", "values": parts[0][1]}
            case "enum":
                bare = {"type": "enum", "name": f"n{next(names)}", "symbols": list(self.symbols)}
            case "fixed":
                bare = {"type": "fixed", "name": f"n{next(names)}", "size": self.size}
            case "bytes" if bytes_are_texts:
                bare = "string"
        if self.null is None:
            return bare
        return ["null", bare] if self.null == 0 else [bare, "null"]


def look_through(schema: Schema) -> Node:
    """Return the root of a schema. Errors: `SchemaError` where it is none, or refers to itself."""
    try:
        return _node(schema, {}, "", ())
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise SchemaError(f"its schema is not one of Avro ({type(error).__name__}: {error})") from error


def _node(schema: Any, named: dict[str, Any], namespace: str, within: tuple[str, ...]) -> Node:
    if isinstance(schema, list):
        return _union(schema, named, namespace, within)
    if isinstance(schema, str):
        if schema in _PRIMITIVES:
            return Node(schema)
        name = _full_name(schema, namespace)
        if name in within:
            raise SchemaError(f"its schema refers to itself: {name}")
        definition, of_namespace = named[name if name in named else schema]
        return _node(definition, named, of_namespace, within)
    kind = schema["type"]
    if not isinstance(kind, str):
        return _node(kind, named, namespace, within)
    if kind in ("record", "error", "enum", "fixed"):
        name = _full_name(schema["name"], schema.get("namespace", namespace))
        named[name] = (schema, namespace)
        namespace, within = name.rpartition(".")[0], (*within, name)
    match kind:
        case "record" | "error":
            return Node(
                "record",
                tuple((f["name"], _node(f["type"], named, namespace, within)) for f in schema["fields"]),
            )
        case "array" | "map":
            items = schema["items" if kind == "array" else "values"]
            return Node(kind, (("items", _node(items, named, namespace, within)),))
    if kind not in _PRIMITIVES:
        return _node(kind, named, namespace, within)
    node = Node(kind, symbols=tuple(schema.get("symbols", ())), size=int(schema.get("size", 0)))
    if schema.get("logicalType") == "decimal":
        return replace(node, meaning=DECIMAL, scale=int(schema.get("scale", 0)))
    return replace(node, meaning=_meaning(schema))


def _union(schema: list[Any], named: dict[str, Any], namespace: str, within: tuple[str, ...]) -> Node:
    branches = [_node(branch, named, namespace, within) for branch in schema]
    nulls = [i for i, branch in enumerate(branches) if branch.type == "null"]
    if len(branches) == 2 and len(nulls) == 1:
        return replace(branches[1 - nulls[0]], null=nulls[0])
    return Node("union", tuple(("", branch) for branch in branches))


def _meaning(schema: dict[str, Any]) -> str:
    """The semantic type; what only says which texts there may be is none."""
    name = str(schema.get("connect.name") or schema.get("logicalType") or "")
    return "" if name in TEXTS else name


def _full_name(name: str, namespace: str) -> str:
    return name if "." in name or not namespace else f"{namespace}.{name}"
