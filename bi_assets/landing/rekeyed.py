"""Changed primary keys: the delete and the insert that Debezium makes of one, linked by its headers.

The delete of the old key names the new one, and the insert of the new key the old one. Both are
kept in `_other_key` of the change log, so that history can say that a row went on under another key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import duckdb
import pyarrow as pa
from confluent_kafka import Message

from bi_assets.contracts.contract import Contract
from bi_assets.landing.columns import typed
from bi_assets.sql import literal, quote

Link = tuple[int, int, bytes]
"""Partition, offset, and the key that the message's header names, as JSON."""
_HEADERS = frozenset({"__debezium.newkey", "__debezium.oldkey"})


def links(messages: Iterable[Message]) -> list[Link]:
    """Return the links in these messages' headers; nearly always there are none."""
    return [
        (message.partition() or 0, message.offset() or 0, value)
        for message in messages
        for header in message.headers() or ()
        if header[0] in _HEADERS and isinstance(value := header[1], bytes)
    ]


def record(
    con: duckdb.DuckDBPyConnection, contract: Contract, found: Sequence[Link], pseudonym_key: str | None
) -> None:
    """Write the other key of the changes in `decoded` that have one, with tokens for pseudonyms."""
    of_key = [column for column in contract.columns if column.name in contract.key]
    image = "{" + ",".join(f'"{column.name}":"VARCHAR"' for column in of_key) + "}"
    values = ", ".join(
        f"{quote(c.name)} := CAST({typed(c, f'image.{quote(c.name)}', pseudonym_key)} AS VARCHAR)"
        for c in of_key
    )
    names = ("partition", "offset", "key")
    con.register("links", pa.table({name: [link[i] for link in found] for i, name in enumerate(names)}))
    con.execute(f"""
UPDATE decoded SET _other_key = l.other_key
FROM (
  SELECT partition, "offset", CAST(to_json(struct_pack({values})) AS VARCHAR) AS other_key
  FROM (SELECT *, try(from_json(coalesce(json ->> '$.payload', json), {literal(image)})) AS image
        FROM (SELECT *, TRY_CAST(try(decode(CAST(key AS BLOB))) AS JSON) AS json FROM links))
  WHERE image IS NOT NULL
) l
WHERE _partition = l.partition AND _offset = l."offset" AND _op IN ('c', 'd')""")
    con.unregister("links")
