"""Transactions: known to be there as a whole, or not yet.

With `provide.transaction.metadata=true` Debezium says at the end of each transaction how many changes
it had in each table, and in each change which transaction it belongs to. A table's changes are in
partitions of their own, so that an order can be there before its items; until all are,
`complete_through` stays before the transaction.

Only ends count: what MySQL commits by itself (DDL, a truncate) has a beginning and no end.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

import duckdb
import pyarrow as pa

from bi_assets.landing.batch import Batch
from bi_assets.settings import Settings
from bi_assets.sql import literal, one

SCHEMA = [
    # Those that are not there as a whole; `expected` is null until the end has come.
    """CREATE TABLE IF NOT EXISTS meta.transactions (
        id VARCHAR, expected BIGINT, seen BIGINT[], made_at TIMESTAMP, noticed_at TIMESTAMP)""",
]
PATIENCE_MINUTES = 5
"""So long a transaction may hold back `complete_through`; what is missing then is lost, and reported."""
_PATIENCE_BEGAN = f"getvariable('landed_at') - INTERVAL {PATIENCE_MINUTES} MINUTE"

_TEXTS = "SELECT try(decode(CAST(value AS BLOB))) AS text FROM messages WHERE value IS NOT NULL"
# A pattern, since taking the JSON apart once more would cost as much as all the rest; a quote within a
# value is escaped, so that none can pretend to be this. A truncate has no key.
_PATTERN = r'"transaction":\s*\{"id":\s*"([^"]+)",\s*"total_order":\s*([0-9]+)'
_CHANGES = f"""
SELECT part.id, NULL::BIGINT AS expected, list(CAST(part.number AS BIGINT)) AS seen,
  NULL::TIMESTAMP AS made_at, any_value(text) AS sample
FROM (SELECT text, regexp_extract(text, {literal(_PATTERN)}, ['id', 'number']) AS part
      FROM ({_TEXTS} AND key IS NOT NULL))
WHERE part.id <> '' GROUP BY part.id"""
_ENDS = """
SELECT json ->> '$.id' AS id,
  coalesce(list_sum([CAST(t ->> 'event_count' AS BIGINT) FOR t IN
    CAST(json -> '$.data_collections' AS JSON[]) IF list_contains({tables}, t ->> 'data_collection')]), 0)
    AS expected,
  []::BIGINT[] AS seen, make_timestamp(1000 * CAST(json ->> '$.ts_ms' AS BIGINT)) AS made_at,
  NULL AS sample
FROM (SELECT TRY_CAST(text AS JSON) AS json FROM ({texts})) WHERE json ->> '$.status' = 'END'"""


def is_in_use(batch: Batch, settings: Settings) -> bool:
    """Tell whether the connector writes a topic of transactions."""
    return any(partition.topic == settings.transaction_topic for partition in batch.next_offsets)


def record(
    con: duckdb.DuckDBPyConnection, batch: Batch, tables: Collection[str], settings: Settings
) -> datetime | None:
    """Note what the batch brings of transactions; return when the oldest was made that lacks something.

    None where none lacks anything. `tables` are those that are landed.
    """
    database = settings.topic_prefix.rsplit(".", 1)[-1]
    known = "[" + ", ".join(literal(f"{database}.{table}") for table in tables) + "]"
    con.execute(
        "CREATE OR REPLACE TEMP TABLE coming AS SELECT *, '' AS sample FROM meta.transactions LIMIT 0"
    )
    for topics, sql in (
        (map(settings.topic, tables), _CHANGES),
        ([settings.transaction_topic], _ENDS.format(tables=known, texts=_TEXTS)),
    ):
        if messages := [batch.messages[topic] for topic in topics if topic in batch.messages]:
            con.register("messages", pa.concat_tables(messages))
            con.execute(
                f"INSERT INTO coming BY NAME SELECT *, getvariable('landed_at') AS noticed_at FROM ({sql})"
            )
            con.unregister("messages")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE open_transactions AS
SELECT id, expected, seen,
  coalesce(made_at, make_timestamp(1000 * TRY_CAST(json_extract_string(TRY_CAST(sample AS JSON),
    '$.source.ts_ms') AS BIGINT))) AS made_at, noticed_at
FROM (
  SELECT id, max(expected) AS expected, list_distinct(flatten(list(seen))) AS seen,
    min(made_at) AS made_at, min(noticed_at) AS noticed_at, any_value(sample) AS sample
  FROM (FROM meta.transactions UNION ALL BY NAME FROM coming)
  GROUP BY id
)
-- What has no end after all this time is a change that was sent again.
WHERE coalesce(len(seen) < expected, noticed_at > {_PATIENCE_BEGAN})""")
    con.execute("DELETE FROM meta.transactions")
    con.execute("INSERT INTO meta.transactions FROM open_transactions")
    since: datetime | None
    (since,) = one(con, f"SELECT min(made_at) FROM meta.transactions WHERE noticed_at > {_PATIENCE_BEGAN}")
    return since
