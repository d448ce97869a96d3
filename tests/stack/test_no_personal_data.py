"""No value of a personal column reaches Kafka, by whatever way it was written."""

import secrets
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from shop.schema import TABLES, Column
from stack.servers import Stack
from tests.stack.topics import Record, read_topics

pytestmark = pytest.mark.stack

PERSONAL = {name: table for name, table in TABLES.items() if table.personal}
EPOCH_DAY = date(1970, 1, 1)


class Planter:
    """Writes rows whose personal columns hold values that are found nowhere else."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.planted: list[bytes] = []
        """Every planted value, in each form in which Debezium or SQL could write it."""

    def values(self, columns: tuple[Column, ...]) -> dict[str, object]:
        """Return a value per column: of personal ones a new marker, of others something plain."""
        return {column.name: self._value(column) for column in columns}

    def insert(self, table: str, row_id: int) -> None:
        """Insert a row with markers."""
        row = self.values(TABLES[table].columns) | {"id": row_id}
        marks = ", ".join(["%s"] * len(row))
        self.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", *row.values())

    def update(self, table: str, row_id: int) -> None:
        """Replace all personal values of a row by new markers."""
        row = self.values(tuple(column for column in TABLES[table].columns if column.personal))
        assignments = ", ".join(f"{name} = %s" for name in row)
        self.execute(f"UPDATE {table} SET {assignments} WHERE id = %s", *row.values(), row_id)

    def execute(self, statement: str, *parameters: object) -> None:
        """Run one SQL statement."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement, parameters)

    def _value(self, column: Column) -> object:
        if not column.personal:
            return "2024-01-01" if column.base_type == "datetime" else "7"
        if column.base_type == "date":
            # Born before 1924, so that Debezium's days since 1970 are negative and of five digits.
            born = date(1880, 1, 1) + timedelta(days=secrets.randbelow(16_000))
            self.planted += [str(born).encode(), f":{(born - EPOCH_DAY).days}".encode()]
            return born
        marker = secrets.token_hex(10)
        self.planted.append(marker.encode())
        return marker


def test_no_planted_value_is_in_any_topic(stack: Stack, shop_database: Any) -> None:
    planter = Planter(shop_database)
    snapshot_name, stream_name, ddl_literal = (secrets.token_hex(10) for _ in range(3))

    planter.execute("INSERT INTO clinics VALUES (1, %s)", snapshot_name)
    for name in PERSONAL:
        for row_id in (1, 2, 3):
            planter.insert(name, row_id)
        planter.update(name, 2)
    stack.start_connector()
    stack.wait_delivered()

    planter.execute("UPDATE clinics SET name = %s WHERE id = 1", stream_name)
    for name in PERSONAL:
        planter.insert(name, 4)
        for row_id in (1, 4):
            planter.update(name, row_id)
        planter.execute(f"UPDATE {name} SET id = 9 WHERE id = 3")
        planter.execute(f"DELETE FROM {name} WHERE id = 2")
    in_where = secrets.token_hex(10)
    planter.planted.append(in_where.encode())
    planter.execute("CREATE TABLE users_copy AS SELECT * FROM users WHERE email <> %s", in_where)
    planter.execute("SET SESSION binlog_format = STATEMENT")
    planter.update("users", 1)
    planter.execute("SET SESSION binlog_format = ROW")
    planter.execute("ALTER TABLE clinics ADD COLUMN region varchar(40) DEFAULT %s", ddl_literal)
    # A restart reads the schema history again and writes to it.
    stack.stop_connect()
    stack.start_connect()
    planter.update("users", 1)
    stack.wait_delivered()

    records = read_topics(stack.bootstrap_servers)
    sent = b"\n".join(part for record in records for part in parts(record))

    # What was planted is where Debezium reads, and the search finds what is not personal:
    # by snapshot and by stream in a table's topic, and in the schema history.
    binlog = joined((stack.folder / "mariadb").glob("binlog.0*"))
    assert sum(marker in binlog for marker in planter.planted) > len(planter.planted) / 2
    for name in (snapshot_name, stream_name):
        assert names_of_topics_with(name, records) == {"shop.shop.clinics"}
    assert names_of_topics_with(ddl_literal, records) == {"schema-history.shop"}
    assert {record.topic for record in records} >= {
        "__consumer_offsets",
        "__debezium-heartbeat.shop",
        *(f"shop.shop.{table}" for table in PERSONAL),
    }

    # The files hold what no consumer is given: Kafka's own metadata, Connect's offsets; and logs.
    written = joined([*(stack.folder / "kafka").rglob("*.log"), stack.folder / "connect.offsets"])
    logged = joined(stack.folder.glob("*.log"))
    assert snapshot_name.encode() in written
    for marker in planter.planted:
        assert marker not in sent
        assert marker not in written
        assert marker not in logged
    for name, table in PERSONAL.items():
        rows = joined_values(records, f"shop.shop.{name}")
        assert b'"id"' in rows
        assert not [column for column in table.personal if column.encode() in rows]


def parts(record: Record) -> list[bytes]:
    """Return key, value, names and values of headers: all that a message carries."""
    headers = [part for header in record.headers for part in header]
    return [
        part.encode() if isinstance(part, str) else part
        for part in (record.key, record.value, *headers)
        if part is not None
    ]


def names_of_topics_with(text: str, records: list[Record]) -> set[str]:
    """Return the topics that have a text anywhere in a message."""
    return {record.topic for record in records if any(text.encode() in part for part in parts(record))}


def joined_values(records: list[Record], topic: str) -> bytes:
    """Return all values of one topic in one string."""
    return b"\n".join(record.value or b"" for record in records if record.topic == topic)


def joined(files: Iterable[Path]) -> bytes:
    """Return the contents of files in one string."""
    return b"\n".join(file.read_bytes() for file in files)
