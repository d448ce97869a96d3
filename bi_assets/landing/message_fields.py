"""What a single message's key or value says, in whatever form it comes."""

from __future__ import annotations

import json
from typing import Any

from bi_assets.landing import avro
from bi_assets.landing.schema_registry import SchemaRegistry


def fields_of(text: bytes, registry: SchemaRegistry) -> dict[str, Any]:
    """Return the fields of a key or a value: JSON, JSON with a schema, or Avro.

    Errors: `ValueError` or `RecursionError` where it can't be read; `RegistryAwayError`.
    """
    fields = avro.value(text, registry) if text.startswith(b"\0") else json.loads(text)
    if isinstance(fields, dict) and "schema" in fields and isinstance(fields.get("payload"), dict):
        fields = fields["payload"]
    if not isinstance(fields, dict):
        raise ValueError("no record")
    return fields
