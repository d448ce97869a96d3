"""Every type that a contract may name, in every way the connector may write it: exact, or refused."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bi_assets.contracts.contract import Column, Contract
from bi_assets.settings import Settings
from tests.landing.converters import DECIMAL, FORMS, Field, Registry, envelope, unscaled
from tests.oracle import Message
from tests.platform import Platform

NAIVE = datetime(2024, 7, 1, 12, 34, 56, 789000, tzinfo=UTC).replace(tzinfo=None)
FINE = NAIVE + timedelta(microseconds=123)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
SYDNEY = "Australia/Sydney"  # ten hours ahead of UTC in July
MICROSECOND = timedelta(microseconds=1)
TIME, CONNECT = "io.debezium.time", "org.apache.kafka.connect.data"
DATE, ISO_DATE = Field("int32", f"{TIME}.Date"), Field("string", f"{TIME}.IsoDate")
MS, US, NS = (Field("int64", f"{TIME}.{name}Timestamp") for name in ("", "Micro", "Nano"))
ISO, ZONED = (Field("string", f"{TIME}.{name}Timestamp") for name in ("Iso", "Zoned"))
STRUCTURE = Field("struct", "io.debezium.time.StructuredTimestamp", fields={"year": Field("int32")})
CONNECT_DATE, CONNECT_MS = Field("int32", f"{CONNECT}.Date"), Field("int64", f"{CONNECT}.Timestamp")
DECIMALS = "decimal.handling.mode=string"
TIMES = "time.precision.mode=adaptive_time_microseconds"


def us(time: datetime) -> int:
    """Return a wall time as microseconds since 1970."""
    return (time - EPOCH) // MICROSECOND


def utc(wall: datetime) -> datetime:
    """Return the UTC time of a wall time of Sydney's winter."""
    return wall - timedelta(hours=10)


class Lands(str):
    """A text that lands, and is no part of a cause."""


@dataclass(frozen=True)
class Case:
    """A value on the wire: what lands with a schema, and what without (a text is part of the cause)."""

    mode: str
    type: str
    field: Field
    wire: Any
    lands: Any
    bare: Any


def same(mode: str, type: str, field: Field, wire: Any, lands: Any) -> Case:
    """Return a case that schemaless JSON tells as well."""
    return Case(mode, type, field, wire, lands, lands)


def precise(value: str, scale: int) -> tuple[Field, bytes]:
    """Return a decimal as its bytes."""
    return Field("bytes", DECIMAL, scale), unscaled(Decimal(value), scale)


MOST = "99999999999999.9999"
LAST = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC).replace(tzinfo=None)
UNSIGNED = str(2**64 - 1)
NOT_VALID = "is not a valid"
CASES = [
    same("bigint", "bigint", Field("int64"), 2**63 - 1, 2**63 - 1),
    same("bigint, negative", "bigint", Field("int64"), -(2**63), -(2**63)),
    same("int as bigint", "bigint", Field("int32"), 7, 7),
    same("int", "int", Field("int32"), -(2**31), -(2**31)),
    same("int unsigned", "int", Field("int64"), 2**31, NOT_VALID),
    same("int unsigned as bigint", "bigint", Field("int64"), 2**32 - 1, 2**32 - 1),
    same("bigint unsigned, long", "bigint unsigned", Field("int64"), -1, 2**64 - 1),
    same("bigint unsigned, long, small", "bigint unsigned", Field("int64"), 5, 5),
    Case("bigint unsigned, precise", "bigint unsigned", *precise(UNSIGNED, 0), 2**64 - 1, NOT_VALID),
    Case("bigint unsigned, precise, as bigint", "bigint", *precise("12", 0), 12, NOT_VALID),
    Case("bigint unsigned, precise, too large", "bigint", *precise(UNSIGNED, 0), NOT_VALID, NOT_VALID),
    same("bigint as double", "bigint", Field("double"), 1.5, "bigint"),
    same("tinyint(1)", "tinyint(1)", Field("int16"), 1, True),
    same("tinyint(1), converted", "tinyint(1)", Field("boolean"), False, False),
    same("tinyint(1), another number", "tinyint(1)", Field("int16"), 2, NOT_VALID),
    same("decimal, string", "decimal(12,2)", Field("string"), "-1234.50", Decimal("-1234.50")),
    same("decimal, double", "decimal(12,2)", Field("double"), 0.1, Decimal("0.1")),
    Case("decimal, precise", "decimal(12,2)", *precise("107.50", 2), Decimal("107.50"), DECIMALS),
    Case("decimal, precise, negative", "decimal(12,2)", *precise("-0.01", 2), Decimal("-0.01"), DECIMALS),
    Case("decimal, precise, zero", "decimal(12,2)", *precise("0", 2), Decimal(0), DECIMALS),
    Case("decimal, precise, scale 0", "decimal(12,0)", *precise("128", 0), Decimal(128), DECIMALS),
    Case("decimal, precise, most", "decimal(18,4)", *precise(MOST, 4), Decimal(MOST), DECIMALS),
    Case("decimal, precise, too large", "decimal(18,4)", *precise("1" + "0" * 14, 4), NOT_VALID, DECIMALS),
    Case("decimal, precise, scale 12", "decimal(30,12)", *precise("1", 12), DECIMALS, DECIMALS),
    same("double", "double", Field("double"), -7.25, Decimal("-7.25")),
    same("float", "double", Field("float"), 0.5, Decimal("0.5")),
    same("double, not a number", "double", Field("string"), "NaN", NOT_VALID),
    same("date, adaptive", "date", DATE, 19905, date(2024, 7, 1)),
    same("date, adaptive, before 1970", "date", DATE, -1, date(1969, 12, 31)),
    same("date, connect", "date", CONNECT_DATE, 19905, date(2024, 7, 1)),
    Case("date, isostring", "date", ISO_DATE, "2024-07-01Z", date(2024, 7, 1), TIMES),
    Case("date, a time in its place", "date", MS, us(NAIVE) // 1000, TIMES, TIMES),
    *(
        same(f"datetime({digits}), adaptive", f"datetime({digits})", MS, us(NAIVE) // 1000, utc(NAIVE))
        for digits in range(4)
    ),
    *(
        same(f"datetime({digits}), adaptive", f"datetime({digits})", US, us(FINE), utc(FINE))
        for digits in range(4, 7)
    ),
    same("datetime, adaptive, last", "datetime(3)", MS, us(LAST) // 1000, LAST - timedelta(hours=11)),
    same("datetime, connect", "datetime(3)", CONNECT_MS, us(NAIVE) // 1000, utc(NAIVE)),
    Case("datetime(6), connect", "datetime(6)", CONNECT_MS, us(NAIVE) // 1000, utc(NAIVE), TIMES),
    Case("datetime, microseconds", "datetime(3)", US, us(NAIVE), utc(NAIVE), TIMES),
    Case("datetime, nanoseconds", "datetime(3)", NS, us(NAIVE) * 1000, utc(NAIVE), TIMES),
    Case("datetime(6), nanoseconds", "datetime(6)", NS, us(FINE) * 1000, utc(FINE), TIMES),
    Case("datetime, isostring", "datetime(6)", ISO, f"{FINE.isoformat()}Z", utc(FINE), TIMES),
    Case("datetime, structured", "datetime(3)", STRUCTURE, {"year": 1}, TIMES, TIMES),
    Case("timestamp", "datetime(3)", ZONED, f"{NAIVE.isoformat()}Z", NAIVE, TIMES),
    Case("timestamp, with an offset", "datetime(3)", ZONED, f"{NAIVE.isoformat()}+10:00", utc(NAIVE), TIMES),
    same("varchar", "varchar", Field("string"), "Grüße\n\"'😀", Lands("Grüße\n\"'😀")),
    same("varchar, a number", "varchar", Field("int32"), 7, Lands("7")),
    same("varchar, a truth", "varchar", Field("boolean"), True, "varchar"),
    same("enum", "varchar", Field("string", "io.debezium.data.Enum"), "general", Lands("general")),
    Case("blob", "varchar", Field("bytes"), b"\xff\xfe", "comes as bytes", Lands("//4=")),
]
TYPES = {kind: f"c{i}" for i, kind in enumerate(dict.fromkeys(case.type for case in CASES))}
"""A column of each type, by type."""
COLUMNS = (
    Column("id", "bigint", "key", required=True),
    *(Column(name, kind, "business") for kind, name in TYPES.items()),
)
CONTRACT = Contract("clinics", "", ("id",), COLUMNS, ())
TOPIC = "shop.shop.clinics"


def sent(form: str, number: int, case: Case, value: Any, registry: Registry) -> bytes:
    """Return the message of an insert of a value, in the column of its type."""
    schema = envelope(TOPIC, {"id": Field("int64", optional=False), TYPES[case.type]: case.field})
    if isinstance(value, bytes) and form != "avro":
        value = base64.b64encode(value).decode()
    elif value is not None and form == "avro":
        value = _logical(case.field, value)
    event = {
        "before": None,
        "after": {"id": number, TYPES[case.type]: value},
        "source": {
            **dict.fromkeys(schema.fields["source"].fields),
            "ts_ms": us(NAIVE) // 1000,
            "file": "binlog.000001",
            "pos": 4,
            "row": 0,
        },
        "transaction": None,
        "op": "c",
        "ts_ms": 1,
        "ts_us": 1,
        "ts_ns": 1,
    }
    if form == "avro":
        return registry.frame(schema, event)
    return json.dumps({"schema": schema.json(), "payload": event} if form != "json" else event).encode()


def _logical(field: Field, value: Any) -> Any:
    """Return a value as fastavro wants it for a logical type."""
    match field.name:
        case "org.apache.kafka.connect.data.Decimal":
            return Decimal(int.from_bytes(value, signed=True)).scaleb(-field.scale)
        case "org.apache.kafka.connect.data.Date":
            return date(1970, 1, 1) + timedelta(days=value)
        case "org.apache.kafka.connect.data.Timestamp":
            return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=value)
    return value


class Landed:
    """All cases in one form, and after them a null of each type; a message is a case."""

    def __init__(self, form: str) -> None:
        registry = Registry()
        told = [(case, case.wire) for case in CASES] + [(case, None) for case in CASES]
        values = [sent(form, i, case, value, registry) for i, (case, value) in enumerate(told)]
        messages = [Message(TOPIC, 0, i, None, value) for i, value in enumerate(values)]
        with registry.serve() as url:
            settings = Settings(data_dir=Path("unused"), source_timezone=SYDNEY, schema_registry_url=url)
            with Platform(settings, marts_of={}, contracts_of={"clinics": CONTRACT}) as platform:
                platform.land(messages)
                self.rows = {row["_offset"]: row for row in platform.rows("cdc.clinics")}
                self.causes = {row["offset"]: row["cause"] for row in platform.rows("cdc.quarantine")}


@pytest.fixture(scope="module", params=FORMS)
def landed(request: pytest.FixtureRequest) -> tuple[str, Landed]:
    return request.param, Landed(request.param)


@pytest.mark.parametrize("case", CASES, ids=[case.mode for case in CASES])
def test_a_value_lands_exactly_or_is_refused(case: Case, landed: tuple[str, Landed]) -> None:
    form, found = landed
    expected = case.bare if form == "json" else case.lands
    place = CASES.index(case)
    if isinstance(expected, str) and not isinstance(expected, Lands):
        assert place not in found.rows
        assert found.causes[place].startswith(TYPES[case.type])
        assert expected in found.causes[place]
    else:
        assert place not in found.causes
        assert found.rows[place][TYPES[case.type]] == expected


def test_null_is_null_whatever_the_type(landed: tuple[str, Landed]) -> None:
    _, found = landed
    nulls = [(found.causes.get(place), found.rows[place][TYPES[case.type]])
             for place, case in enumerate(CASES, start=len(CASES)) if place in found.rows]  # fmt: skip
    assert set(nulls) == {(None, None)}
    # What can't be read at all is no null either way.
    assert len(nulls) == len(CASES)
