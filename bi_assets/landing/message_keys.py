"""What a message's key says, in whatever form it comes."""

from __future__ import annotations

import json
from typing import Any

from bi_assets.landing import avro
from bi_assets.landing.schema_registry import SchemaRegistry


def key_fields(key: bytes, registry: SchemaRegistry) -> dict[str, Any]:
    """Return the columns of a key.

    Errors: `ValueError` or `RecursionError` where it can't be read; `RegistryAwayError`.
    """
    fields = avro.value(key, registry) if key.startswith(b"\0") else json.loads(key)
    if isinstance(fields, dict) and "schema" in fields and isinstance(fields.get("payload"), dict):
        fields = fields["payload"]
    if not isinstance(fields, dict):
        raise ValueError("a key that is no record")
    return fields
