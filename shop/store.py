"""The shop's database: SQLite with a binlog of its own, or a real MySQL.

Values in SQLite are the JSON-safe form of MySQL's: money as text with all its
digits, DATETIME as `YYYY-MM-DD HH:MM:SS.mmm` in UTC, DATE as `YYYY-MM-DD`.
"""

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from shop.change import Change, Transaction, statements
from shop.schema import TABLES, sqlite_ddl

BINLOG_FILE_BYTES = 100_000_000
_FIRST_POSITION = 4

# Bytes that MySQL writes around the rows: GTID and BEGIN before the first
# statement, a table map before each rows event, XID after the last.
_BEGIN_BYTES, _TABLE_MAP_BYTES, _ROWS_HEADER_BYTES, _COMMIT_BYTES = 140, 62, 35, 31

_BINLOG_DDL = """
CREATE TABLE IF NOT EXISTS binlog (
  file TEXT, pos INTEGER, "row" INTEGER, ts INTEGER,
  table_name TEXT, op TEXT, before TEXT, after TEXT,
  PRIMARY KEY (file, pos, "row")
) WITHOUT ROWID
"""
_STATE_DDL = "CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID"

_OPS = {"insert": "c", "update": "u", "delete": "d"}
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Position(NamedTuple):
    """A place in the binlog; compares in the order of writing."""

    file: str
    pos: int
    row: int


class BinlogRow(NamedTuple):
    """One row change as the binlog holds it; `ts` is epoch seconds, `op` c, u or d.

    In the images money is text, which is how Debezium sends it.
    """

    position: Position
    ts: int
    table: str
    op: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


class SqliteShop:
    """The shop's tables, its binlog and its notes (`state`) in one SQLite file.

    Opening it again starts a new binlog file, as a restarted MySQL does; so `pos`
    goes backwards there and every `binlog_file_bytes`. Raises sqlite3.Error where
    the disk does not do its part. For one thread.
    """

    def __init__(self, path: Path, *, binlog_file_bytes: int = BINLOG_FILE_BYTES) -> None:
        self._file_bytes = binlog_file_bytes
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute("PRAGMA wal_autocheckpoint = 4000")
        with self.transaction():
            if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'orders'").fetchone():
                for statement in sqlite_ddl():
                    self._db.execute(statement)
            self._db.execute(_BINLOG_DDL)
            self._db.execute(_STATE_DDL)
            noted: list[int] = self.note("binlog") or [1, _FIRST_POSITION, 0]
            self._file_number, self._pos, self.changes = noted
            if self._pos > _FIRST_POSITION:
                self._rotate()
                self._write_note("binlog", (self._file_number, self._pos, self.changes))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything of the block together, or nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def apply(self, transactions: Iterable[Transaction], notes: Mapping[str, Any]) -> None:
        """Execute transactions, write their changes to the binlog and take notes, all or nothing.

        `notes` is what its owner wants to find again after a restart, as JSON.
        """
        before = (self._file_number, self._pos, self.changes)
        try:
            with self.transaction():
                written: list[tuple[Any, ...]] = []
                for transaction in transactions:
                    self._execute(transaction, written)
                self._db.executemany("INSERT INTO binlog VALUES (?, ?, ?, ?, ?, ?, ?, ?)", written)
                self._write_note("binlog", (self._file_number, self._pos, self.changes))
                for name, value in notes.items():
                    self._write_note(name, value)
        except BaseException:
            self._file_number, self._pos, self.changes = before
            raise

    def note(self, name: str) -> Any:
        """Return what was last noted under a name, None if nothing was."""
        found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        return json.loads(found[0]) if found else None

    def rows(self, table: str, where: str = "1", *parameters: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a table by primary key, with Python values."""
        columns = [column.name for column in TABLES[table].columns]
        order = ", ".join(TABLES[table].key)
        with closing(
            self._db.execute(
                f"SELECT * FROM {table} WHERE {where} ORDER BY {order}",
                [_to_sql(value) for value in parameters],
            )
        ) as cursor:
            for row in cursor:
                yield _read(dict(zip(columns, row, strict=True)), _VALUES[table])

    @property
    def position(self) -> Position:
        """Where the next transaction begins: no row is there yet."""
        return Position(_file_name(self._file_number), self._pos, 0)

    def binlog(self, after: Position | None, limit: int) -> list[BinlogRow]:
        """Return the next rows of the binlog behind a position, None being its beginning."""
        found = self._db.execute(
            'SELECT file, pos, "row", ts, table_name, op, before, after FROM binlog'
            ' WHERE (file, pos, "row") > (?, ?, ?) ORDER BY file, pos, "row" LIMIT ?',
            (*(after or ("", 0, 0)), limit),
        )
        return [
            BinlogRow(Position(file, pos, row), ts, table, op, _image(table, before), _image(table, after))
            for file, pos, row, ts, table, op, before, after in found
        ]

    def binlog_size(self) -> int:
        """Return how many row changes the binlog still holds."""
        return int(self._db.execute("SELECT count(*) FROM binlog").fetchone()[0])

    def purge(self, up_to: Position, notes: Mapping[str, Any]) -> None:
        """Delete the binlog up to a position, that one included, and take notes with it."""
        with self.transaction():
            self._db.execute('DELETE FROM binlog WHERE (file, pos, "row") <= (?, ?, ?)', tuple(up_to))
            for name, value in notes.items():
                self._write_note(name, value)

    def close(self) -> None:
        """Close the database file."""
        self._db.close()

    def _execute(self, transaction: Transaction, written: list[tuple[Any, ...]]) -> None:
        """Change the tables; add what the binlog has to hold to `written`."""
        if self._pos > self._file_bytes:
            self._rotate()
        file, seconds = _file_name(self._file_number), int(transaction.at.timestamp())
        self._pos += _BEGIN_BYTES
        for statement in statements(transaction.changes):
            self._pos += _TABLE_MAP_BYTES
            size = _ROWS_HEADER_BYTES
            for row, change in enumerate(statement):
                before, after = self._change(change)
                op = _OPS[change.op]
                written.append((file, self._pos, row, seconds, change.table, op, before, after))
                # MySQL's rows are about half as long as their JSON, which has the names too.
                size += (len(before or "") + len(after or "")) // 2
            self._pos += size
            self.changes += len(statement)
        self._pos += _COMMIT_BYTES

    def _change(self, change: Change) -> tuple[str | None, str | None]:
        """Execute one change; return its images before and after as JSON."""
        table = TABLES[change.table]
        if change.op == "insert":
            row = {column.name: _to_sql(change.values[column.name]) for column in table.columns}
            marks = ", ".join("?" * len(row))
            self._db.execute(f"INSERT INTO {table.name} VALUES ({marks})", list(row.values()))
            return None, _encode(row)
        where = " AND ".join(f"{name} = ?" for name in table.key)
        key = [_to_sql(change.key[name]) for name in table.key]
        found = self._db.execute(f"SELECT * FROM {table.name} WHERE {where}", key).fetchone()
        if found is None:
            raise LookupError(f"{table.name}: no row {dict(change.key)} to {change.op}")
        before = {column.name: value for column, value in zip(table.columns, found, strict=True)}
        if change.op == "delete":
            self._db.execute(f"DELETE FROM {table.name} WHERE {where}", key)
            return _encode(before), None
        values = {name: _to_sql(value) for name, value in change.values.items()}
        assignments = ", ".join(f"{name} = ?" for name in values)
        self._db.execute(f"UPDATE {table.name} SET {assignments} WHERE {where}", [*values.values(), *key])
        return _encode(before), _encode(before | values)

    def _rotate(self) -> None:
        self._file_number, self._pos = self._file_number + 1, _FIRST_POSITION

    def _write_note(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, _encode(value)))


class MysqlConnection(Protocol):
    """What `MysqlShop` asks of pymysql's connection."""

    def cursor(self) -> Any:
        """Return a cursor, a context manager."""


class MysqlShop:
    """The same shop as SQL in a real MySQL or MariaDB, whose server writes the binlog.

    `connection` is pymysql's, on the shop's database with its tables made.
    """

    def __init__(self, connection: MysqlConnection) -> None:
        self._connection = connection

    def apply(self, transaction: Transaction) -> None:
        """Execute a transaction as one MySQL transaction, at its own time in the binlog."""
        with self._connection.cursor() as cursor:
            cursor.execute("SET timestamp = %s", (int(transaction.at.timestamp()),))
            cursor.execute("BEGIN")
            for statement in statements(transaction.changes):
                cursor.execute(*_mysql_statement(statement))
            cursor.execute("COMMIT")


def _mysql_statement(changes: list[Change]) -> tuple[str, list[Any]]:
    """Return one SQL statement of pymysql's style for changes of one table and kind."""
    first = changes[0]
    table = TABLES[first.table]
    key = ", ".join(f"`{name}`" for name in table.key)
    if first.op == "insert":
        columns = [column.name for column in table.columns]
        values = [_to_mysql(change.values[name]) for change in changes for name in columns]
        tuples = _tuples(len(changes), len(columns))
        names = ", ".join(f"`{name}`" for name in columns)
        return f"INSERT INTO `{table.name}` ({names}) VALUES {tuples}", values
    keys = [_to_mysql(change.key[name]) for change in changes for name in table.key]
    where = f"({key}) IN ({_tuples(len(changes), len(table.key))})"
    if first.op == "delete":
        return f"DELETE FROM `{table.name}` WHERE {where}", keys
    assignments = ", ".join(f"`{name}` = %s" for name in first.values)
    new = [_to_mysql(value) for value in first.values.values()]
    return f"UPDATE `{table.name}` SET {assignments} WHERE {where}", [*new, *keys]


def _tuples(rows: int, columns: int) -> str:
    one = "(" + ", ".join(["%s"] * columns) + ")"
    return ", ".join([one] * rows)


def _to_mysql(value: Any) -> Any:
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value


def _file_name(number: int) -> str:
    return f"binlog.{number:06d}"


def _image(table: str, text: str | None) -> dict[str, Any] | None:
    return None if text is None else _read(json.loads(text), _TIMES[table])


def _datetime_text(value: datetime) -> str:
    return value.isoformat(" ", "milliseconds")[:23]


def _datetime_of(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


_TO_TEXT: dict[type, Callable[[Any], str]] = {
    datetime: _datetime_text,
    date: date.isoformat,
    Decimal: str,
}
_TIME_OF_TEXT: dict[str, Callable[[str], Any]] = {
    "datetime": _datetime_of,
    "date": date.fromisoformat,
}
_VALUE_OF_TEXT: dict[str, Callable[[str], Any]] = {**_TIME_OF_TEXT, "decimal": Decimal}


def _converters(
    by_type: dict[str, Callable[[str], Any]],
) -> dict[str, list[tuple[str, Callable[[str], Any]]]]:
    """Return for each table the columns that a reader has to convert, and how."""
    return {
        table.name: [
            (column.name, by_type[column.base_type])
            for column in table.columns
            if column.base_type in by_type
        ]
        for table in TABLES.values()
    }


_TIMES = _converters(_TIME_OF_TEXT)
_VALUES = _converters(_VALUE_OF_TEXT)


def _to_sql(value: Any) -> Any:
    convert = _TO_TEXT.get(type(value))
    return value if convert is None else convert(value)


def _read(row: dict[str, Any], converters: list[tuple[str, Callable[[str], Any]]]) -> dict[str, Any]:
    for name, convert in converters:
        value = row[name]
        if value is not None:
            row[name] = convert(value)
    return row
