"""Quarantine: messages that could not land, with the cause and what to do.

Their payload is kept only where BI_QUARANTINE_KEY is set, and then encrypted; without it, what is
wanted of a message is read from Kafka again, as long as it is there.
"""

from __future__ import annotations

import hashlib
import hmac

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import PATIENTS, Contract
from bi_assets.landing.columns import stored_type
from bi_assets.landing.message_fields import fields_of
from bi_assets.landing.schema_registry import registry
from bi_assets.landing.sealed import seal
from bi_assets.settings import Settings
from bi_assets.sql import literal

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS cdc.quarantine (
        topic VARCHAR, partition INTEGER, "offset" BIGINT, kafka_time TIMESTAMP,
        table_name VARCHAR, key_token VARCHAR, cause VARCHAR, what_to_do VARCHAR,
        quarantined_at TIMESTAMP, batch_id BIGINT)""",
    *(
        f"ALTER TABLE cdc.quarantine ADD COLUMN IF NOT EXISTS {column}"
        for column in ("cluster_id VARCHAR", "topic_id VARCHAR", "source_ts TIMESTAMP", "payload BLOB")
    ),
]
SINCE = "coalesce(source_ts, kafka_time)"
"""SQL for when the change was made; the broker's time where the message does not tell."""
_UNREADABLE = "unreadable:"
WHAT_TO_DO = (
    "Mend the cause (at the shop, the connector, the contract or our settings), then run "
    "`pharmacy-bi quarantine replay`; until then the row as it was before this message stays in force."
)


def patients_sql(patients: Contract, pseudonym_key: str | None) -> str:
    """Return the statement that makes `state.quarantined_users`: since when a patient's row is in doubt."""
    (key,) = patients.key
    kind = next(stored_type(c, pseudonym_key) for c in patients.columns if c.name == key)
    return (
        f"CREATE OR REPLACE VIEW state.quarantined_{PATIENTS} AS "
        f"SELECT TRY_CAST(key_token AS {kind}) AS id, min({SINCE}) AS since "
        f"FROM cdc.quarantine WHERE table_name = {literal(PATIENTS)} GROUP BY ALL"
    )


def entries_sql(which: str, table: str = "cdc.quarantine") -> str:
    """Return SQL for the patients among some entries, and since when each is in doubt."""
    return (
        f"SELECT DISTINCT key_token, {SINCE} AS since FROM {table} "
        f"WHERE table_name = {literal(PATIENTS)} AND {which}"
    )


def add(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    messages: pa.Table,
    source: tuple[str, str],
    settings: Settings,
) -> None:
    """Set aside the rows of `decoded` that have a cause. `source` is (cluster id, topic id or name)."""
    causes = con.execute(
        "SELECT _topic, _partition, _offset, timestamp_ms, _cause, _source_ts "
        "FROM decoded WHERE _cause IS NOT NULL"
    ).fetchall()
    found = _messages(messages, {(partition, offset) for _, partition, offset, *_ in causes})
    _insert(
        con,
        [
            (topic, partition, offset, at, contract.table, *_told(contract, topic, message, settings),
             cause, source_ts, *source)
            for topic, partition, offset, at, cause, source_ts in causes
            for message in [found[partition, offset]]
        ],
    )  # fmt: skip


def add_undecodable(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    messages: pa.Table,
    source: tuple[str, str],
    settings: Settings,
    cause: str = "the decoder failed on this message",
) -> None:
    """Set aside messages that are not in `decoded`."""
    _insert(
        con,
        [
            (topic, m["partition"], m["offset"], m["timestamp_ms"], contract.table,
             *_told(contract, topic, messages.slice(i, 1), settings), cause, None, *source)
            for i, m in enumerate(messages.to_pylist())
        ],
    )  # fmt: skip


def key_token(contract: Contract, key: bytes | None, settings: Settings) -> str | None:
    """Return what may be known of a message's key: the plain key, tokens for pseudonyms.

    A key that can't be read is given as a digest, so that equal ones can still be told.
    """
    if key is None:
        return None
    try:
        fields = fields_of(key, registry(settings))
        values = {name: fields[name] for name in contract.key}
    except (ValueError, KeyError, TypeError, RecursionError):
        return _UNREADABLE + _digest(key, settings)[:16]
    tokens = []
    for column in contract.columns:
        if column.name in values:
            value = values[column.name]
            if not isinstance(value, int) and column.stored_type != "VARCHAR":
                tokens.append(_UNREADABLE + _digest(_bytes(value), settings)[:16])
            elif column.privacy == "pseudonym" and settings.pseudonym_key:
                tokens.append(_digest(_bytes(value), settings))
            else:
                tokens.append(_bytes(value).decode())
    return ",".join(tokens)


def is_known(token: str | None) -> bool:
    """Tell whether a message's key says which row it is about."""
    return token is not None and not token.startswith(_UNREADABLE)


def _bytes(value: object) -> bytes:
    """Return a value's text in UTF-8; half a surrogate pair becomes a question mark."""
    return str(value).encode(errors="replace")


def _digest(value: bytes, settings: Settings) -> str:
    if settings.pseudonym_key:
        return hmac.new(settings.pseudonym_key.encode(), value, hashlib.sha256).hexdigest()
    return hashlib.sha256(value).hexdigest()


def _messages(messages: pa.Table, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], pa.Table]:
    """Place -> table of the one message there."""
    places = zip(messages.column("partition").to_pylist(), messages.column("offset").to_pylist(), strict=True)
    return {place: messages.slice(i, 1) for i, place in enumerate(places) if place in wanted}


def _told(
    contract: Contract, topic: str, message: pa.Table, settings: Settings
) -> tuple[str | None, bytes | None]:
    """Return what may be kept of a message: its key's token, and its payload where there is a key for it."""
    token = key_token(contract, message.column("key")[0].as_py(), settings)
    if not settings.quarantine_key:
        return token, None
    place = (topic, message.column("partition")[0].as_py(), message.column("offset")[0].as_py())
    return token, seal(message, place, settings.quarantine_key)


_REJECTED = {
    "topic": pa.string(),
    "partition": pa.int32(),
    "offset": pa.int64(),
    "timestamp_ms": pa.int64(),
    "table_name": pa.string(),
    "key_token": pa.string(),
    "payload": pa.binary(),
    "cause": pa.string(),
    "source_ts": pa.timestamp("us"),
    "cluster_id": pa.string(),
    "topic_id": pa.string(),
}


def _insert(con: duckdb.DuckDBPyConnection, rows: list[tuple[object, ...]]) -> None:
    columns = zip(*rows, strict=True)
    con.register(
        "rejected",
        pa.table({n: pa.array(column, k) for (n, k), column in zip(_REJECTED.items(), columns, strict=True)}),
    )
    con.execute(
        "INSERT INTO cdc.quarantine BY NAME SELECT * EXCLUDE (timestamp_ms), "
        "try(make_timestamp(timestamp_ms * 1000)) AS kafka_time, $what AS what_to_do, "
        "getvariable('landed_at') AS quarantined_at, getvariable('batch_id') AS batch_id FROM rejected",
        {"what": WHAT_TO_DO},
    )
    con.unregister("rejected")
