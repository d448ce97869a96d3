"""What the platform must answer, computed a second time: slowly, row by row.

Property tests and the real-chain test compare the platform with this model. It is
written from the specification alone and shares no code with the platform, so that a
misreading would have to be made twice to go unseen. Kafka messages in (Debezium JSON
without schemas), rows of the marts out; wall times are datetimes without zone, money
and discounts are Decimal.
"""

import json
import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from scipy.stats import t as student_t

Row = dict[str, Any]
Key = tuple[int | str, ...]


class Message(NamedTuple):
    """One Kafka message; `value` None is a tombstone, `timestamp_ms` 0 unknown."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int = 0
    headers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Version:
    """What one key was over [valid_from, valid_to), times in UTC without zone.

    Number 0 is a first update's before image, holding since `BEGINNING`. `valid_to`
    None is open. A deleted version keeps the values that were deleted. `values` has
    the columns that the message had: absent and NULL are different things.
    """

    number: int
    values: Row
    valid_from: datetime
    valid_to: datetime | None
    is_exact: bool
    is_deleted: bool
    other_key: bytes | None = None
    """Of a changed primary key: the one before, of a deleted version the one under which it goes on."""


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).replace(tzinfo=None)
BEGINNING = datetime(1, 1, 1, tzinfo=UTC).replace(tzinfo=None)

_COLUMNS = {
    "users": "id:int practitioner_id:int clinic_id:int practitioner_discount:number register_date:time",
    "clinics": "id:int name:text",
    "practitioners": "id:int clinic_id:int practice_type:text modalities:text "
    "certifications:text registered_at:time",
    "brands": "id:int name:text supply_restriction:text",
    "supply_restrictions": "id:int practitioner_id:int brand_id:int allowed:flag",
    "products": "id:int brand_id:int name:text size:text availability:text "
    "wholesale_price:number rrp:number stock:int",
    "favourite_products": "user_id:int product_id:int",
    "prescriptions": "id:int user_id:int practitioner_id:int issued_at:time valid_until:date voided_at:time",
    "prescription_items": "id:int prescription_id:int product_id:int quantity:int "
    "repeats:int dosage_instructions:text removed_at:time",
    "orders": "id:int user_id:int practitioner_id:int clinic_id:int transaction_id:text "
    "date:time amount_total:number amount_subtotal:number amount_tax:number "
    "amount_shipping:number amount_refunded:number shipping_method_id:int "
    "voucher_code:text cancelled_at:time",
    "order_items": "id:int order_id:int product_id:int prescription_item_id:int "
    "quantity:int unit_price:number tax:number refunded_quantity:int refunded_amount:number",
    "shipping_methods": "id:int name:text cost:number max_weight_g:int max_order_value:number",
    "vouchers": "code:text shipping_method_id:int amount_off:number expires_at:time",
}
_KEYS = {"favourite_products": ("user_id", "product_id"), "vouchers": ("code",)}
_REQUIRED = {
    "users": ("practitioner_discount",),
    "orders": ("user_id", "date", "amount_total"),
}


# --- Messages -> changes ---------------------------------------------------------------


class _MalformedError(Exception):
    """The message can't be decoded or breaks its contract."""


@dataclass(frozen=True)
class _Change:
    """One row change, as its message told it."""

    key: Key
    op: str
    before: Row | None
    after: Row | None
    source_time: datetime
    server_id: int
    binlog_base: str
    binlog_number: int
    pos: int
    row: int
    is_incremental: bool
    other_key: bytes | None = None

    @property
    def is_snapshot(self) -> bool:
        return self.op == "r"

    @property
    def place(self) -> tuple[int, int, int, bool]:
        """Where in one server's binlog; a stream row comes after a snapshot row."""
        return (self.binlog_number, self.pos, self.row, not self.is_snapshot)


def _integer(value: object) -> int:
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise _MalformedError("not an integer of 64 bits")
    return value


def _number(value: object) -> Decimal:
    """Return a number or its text as the decimal of its shortest text, 4 places."""
    if type(value) not in (int, float, str):
        raise _MalformedError("not a number")
    try:
        exact = Decimal(str(value))
        if not exact.is_finite():
            raise _MalformedError("not a finite number")
        return exact.quantize(Decimal("0.0001"), ROUND_HALF_UP) + 0  # + 0: no minus zero
    except InvalidOperation as error:
        raise _MalformedError("not a number") from error


def _wall_time(value: object) -> datetime:
    try:
        return _EPOCH + timedelta(milliseconds=_integer(value))
    except OverflowError as error:
        raise _MalformedError("not a time") from error


def _value(kind: str, value: object) -> Any:
    if value is None:
        return None
    if kind == "int":
        return _integer(value)
    if kind == "number":
        return _number(value)
    if kind == "time":
        return _wall_time(value)
    if kind == "date":
        return _wall_time(_integer(value) * 86_400_000).date()
    if kind == "flag":  # tinyint(1): a boolean in the stream, a number in the snapshot
        return bool(value) if isinstance(value, bool) else bool(_integer(value))
    if not isinstance(value, str):
        raise _MalformedError("not a text")
    return value


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _MalformedError("not a JSON object")
    return value


def _parse(data: bytes | None) -> dict[str, Any]:
    def no_constant(name: str) -> None:
        raise _MalformedError(f"{name} is not JSON")

    if data is None:
        raise _MalformedError("nothing there")
    try:
        return _object(json.loads(data.decode(), parse_constant=no_constant))
    except (ValueError, RecursionError) as error:
        raise _MalformedError("not JSON") from error


def _key_columns(table: str) -> tuple[str, ...]:
    return _KEYS.get(table, ("id",))


def _image(table: str, raw: object) -> Row:
    """Return the columns that the contract names, decoded; the others do not enter."""
    source = _object(raw)
    image: Row = {}
    for column in _COLUMNS[table].split():
        name, kind = column.split(":")
        if name in source:
            image[name] = _value(kind, source[name])
    for name in _key_columns(table) + _REQUIRED.get(table, ()):
        if name not in image:
            raise _MalformedError(f"{name} is required")
    for name in _key_columns(table):
        if image[name] is None:
            raise _MalformedError(f"{name} is part of the key")
    if table == "orders" and image["date"] in (None, _EPOCH):  # MySQL's zero date is 1970-01-01
        raise _MalformedError("an order needs a date")
    return image


def _refuse_surcharge(table: str, image: Row) -> None:
    """Raise _MalformedError for a discount above 0 or below -100 (metrics.md G7)."""
    if table == "users":
        discount = image["practitioner_discount"]
        if discount is not None and not -100 <= discount <= 0:
            raise _MalformedError("not a discount")


def _former(table: str, raw: object) -> Row | None:
    """Return an update's before image, None where there is none that can be used."""
    try:
        image = _image(table, raw)
        _refuse_surcharge(table, image)
    except _MalformedError:
        return None
    return image


def _change(table: str, message: Message) -> _Change:
    """Decode one message. Raises _MalformedError."""
    key_object = _parse(message.key)
    envelope = _parse(message.value)
    op = envelope.get("op")
    before: Row | None = None
    after: Row | None = None
    if op in ("c", "r", "u"):
        after = _image(table, envelope.get("after"))
        _refuse_surcharge(table, after)
        if op == "u":
            before = _former(table, envelope.get("before"))
    elif op == "d":
        before = _image(table, envelope.get("before"))
    else:
        raise _MalformedError("no op that changes a row")
    row = after if after is not None else before
    assert row is not None
    key = tuple(row[name] for name in _key_columns(table))
    told = tuple(key_object.get(name) for name in _key_columns(table))
    if told != key or [type(part) for part in told] != [type(part) for part in key]:
        raise _MalformedError("the message's key is not the row's")
    source = _object(envelope.get("source"))
    file = source.get("file")
    if not isinstance(file, str):
        raise _MalformedError("no binlog file")
    base, _, number = file.rpartition(".")
    if not number.isdecimal():
        raise _MalformedError("a binlog file has a number")
    return _Change(
        key=key,
        op=op,
        before=before,
        after=after,
        source_time=_source_time(source, message.timestamp_ms),
        server_id=_integer(source.get("server_id")),
        binlog_base=base,
        binlog_number=int(number),
        pos=_integer(source.get("pos")),
        row=_integer(source.get("row")),
        is_incremental=source.get("snapshot") == "incremental",
        other_key=dict(message.headers).get(
            "__debezium.newkey" if op == "d" else "__debezium.oldkey",
        ),
    )


def _source_time(source: dict[str, Any], sent_ms: int) -> datetime:
    """Return when a change was made: not more than five minutes after it was written to Kafka."""
    told = _wall_time(source.get("ts_ms"))
    sent = _wall_time(sent_ms)
    return sent if sent_ms and told > sent + timedelta(minutes=5) else told


def _truncates(messages: Iterable[Message], table: str) -> list[_Change]:
    """Return a table's truncates by their place, as deletes of no row, each once."""
    found: dict[tuple[object, ...], _Change] = {}
    for message in messages:
        if message.topic != f"shop.shop.{table}" or message.value is None:
            continue
        try:
            envelope = _parse(message.value)
        except _MalformedError:
            continue
        if envelope.get("op") != "t" or envelope.get("after") is not None:
            continue
        source = _object(envelope.get("source"))
        base, _, number = source["file"].rpartition(".")
        place = (source["server_id"], base, int(number), source["pos"], source["row"])
        found.setdefault(
            place, _Change((), "d", None, None, _source_time(source, message.timestamp_ms), *place, False)
        )
    return sorted(found.values(), key=lambda truncate: truncate.place)


def _truncated(changes: Sequence[_Change], truncates: Sequence[_Change]) -> list[_Change]:
    """Add the deletes that truncates make of a key: of what was there at that place in the binlog.

    Only of changes whose place can be compared with the truncate's.
    """
    known = list(changes)
    for truncate in truncates:
        before = [
            change
            for change in known
            if change.binlog_base == truncate.binlog_base
            and change.server_id in (0, truncate.server_id)
            and change.place <= truncate.place
        ]
        last = max(before, key=lambda change: change.place, default=None)
        if last is not None and last.op != "d":
            known.append(replace(truncate, key=last.key, before=last.after))
    return known


def _changes(messages: Iterable[Message], table: str) -> dict[Key, list[_Change]]:
    """Return each key's changes in Kafka's order, without duplicates of either kind."""
    landed: dict[tuple[int, int], Message] = {}
    for message in messages:
        if message.topic == f"shop.shop.{table}" and message.value is not None:
            landed.setdefault((message.partition, message.offset), message)
    by_key: dict[Key, list[_Change]] = defaultdict(list)
    seen: dict[tuple[object, ...], list[_Change]] = defaultdict(list)
    for coordinates in sorted(landed):
        try:
            change = _change(table, landed[coordinates])
        except _MalformedError:
            continue
        if not change.is_snapshot:  # all snapshot rows share one position: it identifies none
            identity = (
                change.key,
                change.server_id,
                change.binlog_base,
                change.binlog_number,
                change.pos,
                change.row,
            )
            if any(_same_content(change, other) for other in seen[identity]):
                continue
            seen[identity].append(change)
        by_key[change.key].append(change)
    truncates = _truncates(landed.values(), table)
    return {key: _truncated(changes, truncates) for key, changes in by_key.items()}


def _same_row(one: Row | None, other: Row | None) -> bool:
    """Compare two images; a column that one of them lacks equals NULL."""
    if one is None or other is None:
        return one is other
    return all(one.get(name) == other.get(name) for name in one.keys() | other.keys())


def _same_content(one: _Change, other: _Change) -> bool:
    return one.op == other.op and _same_row(one.before, other.before) and _same_row(one.after, other.after)


# --- Changes -> history ----------------------------------------------------------------


def _in_order(changes: Sequence[_Change]) -> list[_Change]:
    """Put one key's changes, given in Kafka's order, into the order of the source.

    Positions compare only within one server and binlog base name. A run of those that
    do is an epoch; epochs follow one another as Kafka had them. A snapshot row names no
    server (id 0): it goes with the last one of its base name before it, else with the next.
    A snapshot in an earlier file than anything before it is of a server that replaced
    the last one, and begins an epoch; an incremental one is only late.
    """
    epochs: list[list[_Change]] = []
    last: tuple[int, str] | None = None
    for index, change in enumerate(changes):
        base = change.binlog_base
        before = [c for c in changes[:index] if c.binlog_base == base]
        after = [c for c in changes[index:] if c.binlog_base == base]
        named = [c.server_id for c in [*reversed(before), *after] if c.server_id]
        source = (change.server_id or next(iter(named), 0), base)
        replaced = (
            change.is_snapshot
            and not change.is_incremental
            and any(c.place[0] > change.place[0] for c in before)
        )
        if source != last or replaced:
            epochs.append([])
        last = source
        epochs[-1].append(change)
    # sorted() is stable: at equal places Kafka's order stays
    return [change for epoch in epochs for change in sorted(epoch, key=lambda c: c.place)]


def _versions(changes: Sequence[_Change]) -> list[Version]:
    drafts: list[Version] = []
    for change in _in_order(changes):
        last = drafts[-1] if drafts else None
        if change.is_snapshot and last is not None and not last.is_deleted:
            assert change.after is not None
            if _same_row(change.after, last.values):
                continue
        if last is None and change.op == "u" and change.before is not None:
            drafts.append(Version(0, change.before, BEGINNING, None, False, False))
        values = change.before if change.op == "d" else change.after
        assert values is not None
        drafts.append(
            Version(
                number=drafts[-1].number + 1 if drafts else 1,
                values=values,
                valid_from=max(change.source_time, drafts[-1].valid_from) if drafts else change.source_time,
                valid_to=None,
                is_exact=not change.is_snapshot,
                is_deleted=change.op == "d",
                other_key=change.other_key,
            )
        )
    ends = [draft.valid_from for draft in drafts[1:]]
    return [replace(d, valid_to=end) for d, end in zip(drafts, [*ends, None], strict=True)]


def history(messages: Iterable[Message], table: str) -> dict[Key, list[Version]]:
    """Return the versions of every key of a table, oldest first (design.md section 3).

    `messages` may come in any interleaving, with transport and source duplicates;
    what can't be decoded or breaks its contract is skipped. Keys are tuples, also
    those of one column.
    """
    return {key: _versions(changes) for key, changes in _changes(messages, table).items()}


# --- History -> orders -----------------------------------------------------------------


def _utc(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return a wall time in UTC: a repeated hour's first one, a missing hour later."""
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC).replace(tzinfo=None)


def _business_date(utc: datetime, zone: ZoneInfo) -> date:
    return utc.replace(tzinfo=UTC).astimezone(zone).date()


@dataclass(frozen=True)
class _Match:
    """The users version that gave an order its discount, and how sure that is."""

    discount: Decimal | None
    source: str
    quality: str | None
    practitioner_id: int | None


_NO_PATIENT = _Match(None, "missing_patient", None, None)


def _stored_discount(version: Version) -> Decimal | None:
    discount: Decimal | None = version.values["practitioner_discount"]
    if discount is None:
        return None
    return discount.quantize(Decimal("0.01"), ROUND_HALF_UP) + 0  # + 0: no minus zero


def _match(patient: Sequence[Version], ordered_at: datetime) -> _Match:
    """Find the discount that a patient, given by all their versions, had at a time (UTC)."""
    if not patient:
        return _NO_PATIENT
    reached = [v for v in patient if v.number > 0 and v.valid_from <= ordered_at]
    if not reached:
        first = patient[0]  # the before image where there is one
        return _Match(
            _stored_discount(first),
            "backfill_first_known",
            "not_exact",
            first.values.get("practitioner_id"),
        )
    version = reached[-1]
    if version.is_deleted:
        return _NO_PATIENT
    discount = _stored_discount(version)
    if not version.is_exact:
        quality = "not_exact"
    elif version.valid_from.replace(microsecond=0) == ordered_at.replace(microsecond=0):
        quality = "same_second"
    else:
        quality = "exact"
    source = "asof_null" if discount is None else "asof"
    return _Match(discount, source, quality, version.values.get("practitioner_id"))


def _refunded_goods(order: Row, items: Sequence[Row]) -> Decimal:
    """Return what the items say was refunded; without items, the order's own, goods only."""
    if items:
        return sum((i["refunded_amount"] for i in items if i.get("refunded_amount")), Decimal(0))
    refunded: Decimal | None = order.get("amount_refunded")
    subtotal: Decimal | None = order.get("amount_subtotal")
    if refunded is None:
        return Decimal(0)
    return refunded if subtotal is None else min(refunded, subtotal)


def _state(order: Version, refunded: Decimal) -> str:
    values = order.values
    if order.is_deleted:
        return "deleted"
    if refunded > 0:
        whole = values.get("amount_subtotal")
        if whole is None:
            whole = values["amount_total"]
        return "refunded" if whole is not None and refunded >= whole else "part_refunded"
    if values.get("cancelled_at") is not None:
        return "cancelled"
    if "transaction_id" in values and values["transaction_id"] is None:
        return "unpaid"
    return "paid"


def _orders_with_discount(
    messages: Sequence[Message], business_zone: ZoneInfo, source_zone: ZoneInfo
) -> list[Row]:
    patients = history(messages, "users")
    items: dict[int, list[Row]] = defaultdict(list)
    for item in history(messages, "order_items").values():
        if not item[-1].is_deleted and item[-1].values.get("order_id") is not None:
            items[item[-1].values["order_id"]].append(item[-1].values)

    rows: list[Row] = []
    for (order_id,), versions in sorted(history(messages, "orders").items()):
        latest = versions[-1]
        if latest.is_deleted and latest.other_key is not None:
            continue  # it goes on under another key
        order = latest.values
        ordered_at = _utc(order["date"], source_zone)
        match = _match(patients.get((order["user_id"],), ()), ordered_at)
        assert isinstance(order_id, int)
        refunded = _refunded_goods(order, items[order_id])
        subtotal = order.get("amount_subtotal")
        rows.append(
            {
                "order_id": order_id,
                "patient_id": order["user_id"],
                "practitioner_id": order.get("practitioner_id"),
                "clinic_id": order.get("clinic_id"),
                "ordered_at": ordered_at,
                "order_date": _business_date(ordered_at, business_zone),
                "order_state": _state(latest, refunded),
                "amount_total": order["amount_total"],
                "amount_subtotal": subtotal,
                "net_goods": None if subtotal is None else subtotal - refunded,
                "discount": match.discount,
                "discount_pct": None if match.discount is None else 0 - match.discount,
                "discount_source": match.source,
                "match_quality": match.quality,
                "patient_practitioner_id_asof": match.practitioner_id,
                "n_order_versions": sum(version.number > 0 for version in versions),
                "order_practitioner_id": order.get("practitioner_id"),
                "last_event_at": latest.valid_from,
            }
        )
    return rows


# --- Orders -> answers -----------------------------------------------------------------


def ksql_round(x: float) -> Decimal:
    """Round to 2 places as ksqlDB does: ties of the shortest decimal text go up."""
    cents = Decimal(repr(x)) * 100 + Decimal("0.5")
    return (cents.to_integral_value(ROUND_FLOOR) / 100).quantize(Decimal("0.01"))


def _average(amounts: Sequence[Decimal]) -> Decimal | None:
    return ksql_round(float(sum(amounts)) / len(amounts)) if amounts else None


def _sum(values: Iterable[Decimal | None]) -> Decimal | None:
    known = [value for value in values if value is not None]
    return sum(known, Decimal(0)) if known else None


def _amounts(orders: Iterable[Row]) -> list[Decimal]:
    return [o["amount_total"] for o in orders if o["amount_total"] is not None]


def _grouped(orders: Iterable[Row], *columns: str) -> list[tuple[tuple[Any, ...], list[Row]]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for order in orders:
        groups[tuple(order[column] for column in columns)].append(order)
    return sorted(groups.items(), key=lambda group: group[0])


def _by_day(orders: Sequence[Row]) -> list[Row]:
    return [
        {
            "order_date": order_date,
            "discount": discount,
            "n_orders": len(group),
            "n_amounts": len(_amounts(group)),
            "sum_amount": _sum(o["amount_total"] for o in group),
            "sum_net_goods": _sum(o["net_goods"] for o in group),
            "last_event_at": max(o["last_event_at"] for o in group),
        }
        for (order_date, discount), group in _grouped(orders, "order_date", "discount")
    ]


def _average_by_discount(orders: Sequence[Row]) -> list[Row]:
    rows = []
    for (discount,), group in _grouped(orders, "discount"):
        amounts = _amounts(group)
        last_event_at = max(o["last_event_at"] for o in group)
        rows.append(
            {
                "discount": discount,
                "avg_order_value": _average(amounts),
                "n_orders": len(amounts),
                "last_event_at": last_event_at,
                "rowtime_ms": (last_event_at - _EPOCH) // timedelta(milliseconds=1),
            }
        )
    return rows


def _average_by_discount_per_year(orders: Sequence[Row]) -> list[Row]:
    with_year = [{**order, "order_year": order["order_date"].year} for order in orders]
    return [
        {
            "discount": discount,
            "order_year": order_year,
            "avg_order_value": _average(_amounts(group)),
            "n_orders": len(_amounts(group)),
        }
        for (discount, order_year), group in _grouped(with_year, "discount", "order_year")
    ]


def _level(discount_pct: Decimal | None) -> str:
    """Return a percentage as its shortest text, `unknown` for none."""
    return "unknown" if discount_pct is None else f"{discount_pct.normalize():f}"


def _statistics(discount_pct: Decimal | None, orders: Sequence[Row]) -> Row:
    """Return one row of the standard mart.

    The t interval takes orders as independent, the cluster standard error patients
    (metrics.md G10, M07).
    """
    by_patient: dict[int, list[float]] = defaultdict(list)
    for order in orders:
        by_patient[order["patient_id"]].append(float(order["net_goods"]))
    values = [float(order["net_goods"]) for order in orders]
    n, m = len(values), len(by_patient)
    mean = math.fsum(values) / n
    sd = t_low = t_high = cluster_se = None
    if n > 1:
        sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        margin = float(student_t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
        t_low, t_high = mean - margin, mean + margin
    if m > 1:
        residuals = [math.fsum(own) - mean * len(own) for own in by_patient.values()]
        cluster_se = math.sqrt(m / (m - 1) * math.fsum(r**2 for r in residuals)) / n
    quality_flag = "low_n" if n < 30 or m < 11 else "ok"
    return {
        "discount_pct": discount_pct,
        "level": _level(discount_pct),
        "n_orders": n,
        "n_patients": m,
        "aov": mean,
        "median_order_value": statistics.median(values),
        "sd": sd,
        "t_low": t_low,
        "t_high": t_high,
        "aov_mean_of_patients": math.fsum(math.fsum(v) / len(v) for v in by_patient.values()) / m,
        "cluster_se": cluster_se,
        "quality_flag": quality_flag,
        "publishable": quality_flag == "ok",
    }


def _value_by_discount(orders: Sequence[Row]) -> list[Row]:
    sold = [
        order
        for order in orders
        if order["order_state"] in ("paid", "part_refunded") and order["net_goods"] is not None
    ]
    known = [order for order in sold if order["discount_source"] == "asof"]
    unknown = [order for order in sold if order["discount_source"] == "asof_null"]
    rows = [_statistics(pct, group) for (pct,), group in _grouped(known, "discount_pct")]
    return [*rows, _statistics(None, unknown)] if unknown else rows


def marts(
    messages: Sequence[Message],
    *,
    timezone: str = "UTC",
    source_timezone: str = "UTC",
    first_date: date = date(2010, 1, 1),
) -> dict[str, list[Row]]:
    """Return the rows of five marts by name, each sorted by its grain.

    `timezone` is that of business dates, `source_timezone` that of DATETIME columns.
    `first_date` bounds Dagster's partitions and so changes no row: an order before it
    is counted all the same (design.md section 4).
    """
    del first_date
    orders = _orders_with_discount(messages, ZoneInfo(timezone), ZoneInfo(source_timezone))
    parity = [
        order
        for order in orders
        if order["order_state"] != "deleted"
        and order["discount"] is not None
        and order["discount_source"] in ("asof", "backfill_first_known")
    ]
    return {
        "orders_with_discount": orders,
        "order_value_by_discount_day": _by_day(parity),
        "avg_order_value_by_discount": _average_by_discount(parity),
        "avg_order_value_by_discount_per_year": _average_by_discount_per_year(parity),
        "order_value_by_discount": _value_by_discount(orders),
    }
