"""Whether all is well: what `pharmacy-bi status` and `pharmacy-bi explain` tell."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from bi_assets import source_status
from bi_assets.errors import UserError
from bi_assets.landing.land import COUNTS
from bi_assets.landing.offsets import landed_offsets, unread_messages
from bi_assets.landing.schema_registry import registry
from bi_assets.landing.topic_state import told_losses, told_restarts, topic_state
from bi_assets.outputs.pace import last_publication, spacing
from bi_assets.settings import Settings
from bi_assets.sizes import sizes
from bi_assets.sql import one, quote
from bi_assets.warehouse import Warehouse

Rows = list[dict[str, Any]]
_PATIENCE = timedelta(hours=1)
"""So long may messages wait: for a `sync` by the clock."""
_TOTALS = ", ".join(f"coalesce(sum({name}), 0)::BIGINT AS {name}" for name in COUNTS)


def status(warehouse: Warehouse) -> dict[str, Any]:
    """Return the state of topics, marts and everything that went wrong.

    `ok` is true only where nothing is lost, quarantined or failing, and the broker answers.
    """
    settings = warehouse.settings
    with warehouse.open() as con:
        found: dict[str, Any] = {
            "broker": settings.bootstrap_servers,
            "data_dir": str(settings.data_dir),
            "complete_through": None,
            "as_of": None,
            "tables": _tables(con, warehouse),
            "marts": _marts(con, warehouse),
            "losses": _rows(con, "SELECT * FROM meta.losses ORDER BY noticed_at"),
            "restarts": _rows(con, "SELECT * FROM meta.restarts ORDER BY noticed_at"),
            "schema_drift": _rows(con, "SELECT * FROM meta.drift ORDER BY table_name, column_name"),
            "counts": _rows(con, f"SELECT {_TOTALS} FROM meta.batches")[0],
            "outside_partitions": _outside_partitions(con, warehouse),
            "quarantined_orders": _quarantined_orders(con, warehouse),
            "bytes": sizes(settings),
        }
        flattened = _rows(con, "SELECT topic, has_event_time FROM meta.flattened ORDER BY topic")
        for row in _rows(con, "SELECT complete_through, as_of FROM meta.progress"):
            found |= row
        landed, unread = landed_offsets(con), unread_messages(con)
        last = last_publication(con)
        (landed_at,) = one(con, "SELECT max(landed_at) FROM meta.batches")
        source = source_status.tell(con, warehouse.contracts, settings)
    found["published"] = last.told() if last else None
    found["problems"] = [f"left out: {fault}" for fault in warehouse.faults]
    found["problems"] += _registry(settings)
    state = topic_state(settings, warehouse.topics, landed, unread)
    found["broker"] = state.broker
    for table in found["tables"]:
        topic = settings.topic(table["table"])
        table["lag"] = state.lag.get(topic)
        table["topic"] = topic if topic in state.lag else None
    found["problems"] += state.problems
    found["problems"] += _waiting(sum(table["lag"] or 0 for table in found["tables"]), landed_at)
    found["problems"] += told_losses(
        (loss["topic"], loss["partition"], loss["first_offset"], loss["last_offset"])
        for loss in found["losses"]
    )
    unread_heartbeats = state.lag.get(settings.heartbeat_topic, 0) if state.lag else None
    with warehouse.open() as con:
        alive = source_status.life(con, unread_heartbeats)
    found["problems"] += [*alive.problems, *source.problems]
    found["notes"] = state.notes + told_restarts(
        (again["topic"], again["partition"], again["landed_offset"]) for again in found["restarts"]
    )
    found["notes"] += [*alive.notes, *source.notes]
    found["notes"] += [
        f"{flat['topic']} comes flattened (ExtractNewRecordState): what a row was before is not known, and "
        "changes are in Kafka's order"
        + (
            "."
            if flat["has_event_time"]
            else ", dated by when they came to Kafka; add.fields=op,source.ts_ms tells when they were made."
        )
        for flat in flattened
    ]
    if last and (every := spacing(last.seconds)):
        found["notes"].append(
            f"A publication takes {last.seconds:.1f} s ({last.bytes / 1e6:,.0f} MB, {last.how}): "
            f"there is one every {every:.1f} s at most."
        )
    if quarantined := sum(table["quarantined"] for table in found["tables"]):
        found["problems"].append(
            f"{quarantined} messages are in quarantine; see `pharmacy-bi quarantine list`."
        )
    if in_doubt := found["quarantined_orders"]:
        found["notes"].append(
            f"{in_doubt} orders stay out of the averages by discount while a change of their patient is in "
            "quarantine."
        )
    found["problems"] += [
        f"{mart['mart']}: fails {mart['failing']}; its last good version stays published."
        for mart in found["marts"]
        if mart["failing"]
    ]
    found["ok"] = not found["problems"]
    return found


def _registry(settings: Settings) -> list[str]:
    """Return what is wrong with the schema registry, where there is to be one."""
    try:
        registry(settings).check()
    except UserError as error:
        return [str(error)]
    return []


def explain(warehouse: Warehouse, order_id: int) -> dict[str, Any]:
    """Return an order's row, the events it is made of, and its patient's versions at the time.

    Those under a key that it had before are among them.

    Errors: `UserError` where no such order has landed.
    """
    with warehouse.open() as con:
        row = _rows(con, "SELECT * FROM marts.orders_with_discount WHERE order_id = $id", id=order_id)
        ids = _keys_of(con, order_id)
        events = _rows(
            con,
            "SELECT * FROM cdc.orders WHERE list_contains($ids, id) ORDER BY _batch_id, _offset",
            ids=ids,
        )
        if not events:
            raise UserError(f"No order {order_id} has landed. `pharmacy-bi sync` lands what Kafka has.")
        versions = _rows(
            con,
            "SELECT * FROM history.orders WHERE list_contains($ids, id) ORDER BY valid_from, version_no",
            ids=ids,
        )
        patient = _rows(con, """
SELECT u.*, o.date >= u.valid_from AND o.date < u.valid_to AS in_force
FROM history.users u JOIN history.orders o ON o.user_id = u.id
WHERE o.id = $id AND o.valid_to = TIMESTAMP '9999-12-31 00:00:00'
ORDER BY u.version_no""", id=order_id)  # fmt: skip
        items = _rows(
            con, "SELECT * FROM history.order_items WHERE order_id = $id ORDER BY id, version_no", id=order_id
        )
    return {
        "row": row[0] if row else None,
        "order_events": events,
        "order_versions": versions,
        "patient_versions": patient,
        "item_versions": items,
    }


def _keys_of(con: duckdb.DuckDBPyConnection, order_id: int) -> list[int]:
    """Return an order's key, and those that it had before its key was changed."""
    ids = [order_id]
    while found := con.execute(
        """
SELECT key FROM (SELECT CAST(rekeyed_from ->> '$.id' AS BIGINT) AS key, valid_from
  FROM history.orders WHERE id = ? AND rekeyed_from IS NOT NULL)
WHERE NOT list_contains(?, key) ORDER BY valid_from DESC LIMIT 1""",
        [ids[-1], ids],
    ).fetchall():
        ids.append(found[0][0])
    return ids


def quarantined(warehouse: Warehouse) -> Rows:
    """Return every message in quarantine: where it is in Kafka, its cause and what to do."""
    with warehouse.open() as con:
        return _rows(con, """
SELECT topic, partition, "offset", key_token AS key, cause, what_to_do, quarantined_at,
  payload IS NOT NULL AS payload_kept
FROM cdc.quarantine ORDER BY topic, partition, "offset\"""")  # fmt: skip


def _tables(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> Rows:
    tables = []
    for contract in warehouse.contracts.values():
        (row,) = _rows(con, f"""
SELECT $name AS "table", (SELECT count(*) FROM cdc.{quote(contract.table)}) AS changes,
  (SELECT count(*) FROM state.{quote(contract.table)}) AS rows,
  (SELECT count(*) FROM cdc.quarantine WHERE table_name = $name) AS quarantined,
  (SELECT max(last_source_ts) FROM meta.offsets WHERE topic = $topic) AS newest_change""",
            name=contract.table, topic=warehouse.settings.topic(contract.table))  # fmt: skip
        tables.append(row)
    return tables


def _marts(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> Rows:
    marts = []
    for mart in warehouse.marts.values():
        (row,) = _rows(con, f"""
SELECT $name AS mart, (SELECT count(*) FROM {mart.table}) AS rows,
  (SELECT max(checked_at) FROM meta.checks WHERE mart = $name) AS refreshed_at,
  (SELECT string_agg(name, ', ' ORDER BY name) FROM meta.checks
   WHERE mart = $name AND breaches > 0 AND severity = 'error') AS failing""", name=mart.name)  # fmt: skip
        marts.append(row)
    return marts


def _outside_partitions(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> int:
    if "orders_with_discount" not in warehouse.marts:
        return 0
    (row,) = _rows(
        con,
        "SELECT count(*) AS n FROM marts.orders_with_discount WHERE order_date < $first "
        "OR order_date > business_date(CAST(now() AS TIMESTAMP)) + 1",
        first=warehouse.settings.first_date,
    )
    return int(row["n"])


def _quarantined_orders(con: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> int:
    if "orders_with_discount" not in warehouse.marts:
        return 0
    (row,) = _rows(
        con, "SELECT count(*) AS n FROM marts.orders_with_discount WHERE discount_source = 'quarantined'"
    )
    return int(row["n"])


def _waiting(messages: int, landed_at: datetime | None) -> list[str]:
    """Return what is wrong where so many messages wait in Kafka; `landed_at` (UTC): the last landing."""
    if not messages:
        return []
    if landed_at is None:
        return [f"{messages:,} messages are in Kafka and none has landed: `pharmacy-bi sync` lands them."]
    if datetime.now(UTC).replace(tzinfo=None) - landed_at < _PATIENCE:
        return []
    return [
        f"{messages:,} messages wait in Kafka, and none has landed since {landed_at:%Y-%m-%d %H:%M} (UTC): "
        "see what `pharmacy-bi sync` says."
    ]


def _rows(con: duckdb.DuckDBPyConnection, sql: str, **parameters: object) -> Rows:
    relation = con.execute(sql, parameters or None)
    names = [column[0] for column in relation.description or []]
    return [dict(zip(names, row, strict=True)) for row in relation.fetchall()]
