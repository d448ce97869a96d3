"""Quarantine: messages that could not land, with the cause and what to do; never their payload."""

from __future__ import annotations

import hashlib
import hmac

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract
from bi_assets.landing.message_keys import key_fields
from bi_assets.landing.schema_registry import registry
from bi_assets.settings import Settings

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS cdc.quarantine (
        topic VARCHAR, partition INTEGER, "offset" BIGINT, kafka_time TIMESTAMP,
        table_name VARCHAR, key_token VARCHAR, cause VARCHAR, what_to_do VARCHAR,
        quarantined_at TIMESTAMP, batch_id BIGINT)""",
]
WHAT_TO_DO = (
    "Mend the cause at the shop, the connector or the contract; until then the row as it was "
    "before this message stays in force."
)


def add(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table, settings: Settings) -> None:
    """Set aside the rows of `decoded` that have a cause."""
    causes = con.execute(
        "SELECT _topic, _partition, _offset, timestamp_ms, _cause FROM decoded WHERE _cause IS NOT NULL"
    ).fetchall()
    keys = _keys(messages, {(partition, offset) for _, partition, offset, _, _ in causes})
    _insert(
        con,
        [
            (topic, partition, offset, at, contract.table,
             key_token(contract, keys[partition, offset], settings), cause)
            for topic, partition, offset, at, cause in causes
        ],
    )  # fmt: skip


def add_undecodable(
    con: duckdb.DuckDBPyConnection,
    contract: Contract,
    topic: str,
    messages: pa.Table,
    settings: Settings,
    cause: str = "the decoder failed on this message",
) -> None:
    """Set aside messages that are not in `decoded`."""
    _insert(
        con,
        [
            (topic, m["partition"], m["offset"], m["timestamp_ms"], contract.table,
             key_token(contract, m["key"], settings), cause)
            for m in messages.to_pylist()
        ],
    )  # fmt: skip


def key_token(contract: Contract, key: bytes | None, settings: Settings) -> str | None:
    """Return what may be known of a message's key: the plain key, tokens for pseudonyms.

    A key that can't be read is given as a digest, so that equal ones can still be told.
    """
    if key is None:
        return None
    try:
        fields = key_fields(key, registry(settings))
        values = {name: fields[name] for name in contract.key}
    except (ValueError, KeyError, TypeError, RecursionError):
        return "unreadable:" + _digest(key, settings)[:16]
    tokens = []
    for column in contract.columns:
        if column.name in values:
            value = values[column.name]
            if not isinstance(value, int) and column.stored_type != "VARCHAR":
                tokens.append("unreadable:" + _digest(_bytes(value), settings)[:16])
            elif column.privacy == "pseudonym" and settings.pseudonym_key:
                tokens.append(_digest(_bytes(value), settings))
            else:
                tokens.append(_bytes(value).decode())
    return ",".join(tokens)


def _bytes(value: object) -> bytes:
    """Return a value's text in UTF-8; half a surrogate pair becomes a question mark."""
    return str(value).encode(errors="replace")


def _digest(value: bytes, settings: Settings) -> str:
    if settings.pseudonym_key:
        return hmac.new(settings.pseudonym_key.encode(), value, hashlib.sha256).hexdigest()
    return hashlib.sha256(value).hexdigest()


def _keys(messages: pa.Table, wanted: set[tuple[int, int]]) -> dict[tuple[int, int], bytes | None]:
    places = zip(messages.column("partition").to_pylist(), messages.column("offset").to_pylist(), strict=True)
    keys = messages.column("key")
    return {place: keys[i].as_py() for i, place in enumerate(places) if place in wanted}


def _insert(con: duckdb.DuckDBPyConnection, rows: list[tuple[object, ...]]) -> None:
    names = ("topic", "partition", "offset", "timestamp_ms", "table_name", "key_token", "cause")
    con.register("rejected", pa.table({n: [r[i] for r in rows] for i, n in enumerate(names)}))
    con.execute(
        'INSERT INTO cdc.quarantine SELECT topic, partition, "offset", '
        "try(make_timestamp(timestamp_ms * 1000)), table_name, key_token, cause, $what, "
        "getvariable('landed_at'), getvariable('batch_id') FROM rejected",
        {"what": WHAT_TO_DO},
    )
    con.unregister("rejected")
