"""Messages that should never have been sent: several hundred kinds of them, and what lands all the same."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.landing.messages import Log, Row, order, user

MARKER = "PLANTED-PERSONAL-DATUM"
"""In every message that has room for it; must be found nowhere afterwards."""
NEVER = object()
"""Stands for a field that is not there at all."""
_FIRST_ID = 10_000


@dataclass(frozen=True)
class Kind:
    """One kind of message. `lands` is true of those that look odd and are sound."""

    name: str
    table: str
    key: bytes | None
    value: bytes
    lands: bool = False


class _Kinds:
    """Makes kinds from sound messages, each of a row of its own."""

    def __init__(self) -> None:
        self._log = Log()
        self._next_id = _FIRST_ID
        self.made: list[Kind] = []

    def sound(self, table: str, op: str = "c") -> tuple[bytes, dict[str, Any]]:
        """Return the key and the envelope of a sound message."""
        self._next_id += 1
        row: Row = {
            "users": user(self._next_id, clinic_id=1, register_date=self._log_time),
            "orders": order(self._next_id, user_id=_FIRST_ID, voucher_code="V", cancelled_at=None),
            "order_items": {"id": self._next_id, "order_id": _FIRST_ID, "quantity": 1},
        }[table]
        key, value = self._log.bytes_of(table, op, row if op in "ud" else None, None if op == "d" else row)
        envelope: dict[str, Any] = json.loads(value)
        envelope["marker"] = MARKER
        for image in ("before", "after"):
            if envelope[image]:
                envelope[image] |= {"email": MARKER, "note": MARKER}
        return key, envelope

    _log_time = order()["date"]

    def text(
        self, name: str, change: Callable[[bytes], bytes], table: str = "orders", *, lands: bool = False
    ) -> None:
        """Add a sound message whose bytes are changed."""
        key, envelope = self.sound(table)
        self.made.append(Kind(name, table, key, change(_json(envelope)), lands))

    def field(
        self, path: str, value: object, table: str = "orders", op: str = "c", *, lands: bool = False
    ) -> None:
        """Add a sound message in which one field has another value, or is missing."""
        key, envelope = self.sound(table, op)
        *outer, last = path.split(".")
        inner = envelope
        for step in outer:
            inner = inner[step]
        if value is NEVER:
            inner.pop(last, None)
        else:
            inner[last] = value
        words = "missing" if value is NEVER else repr(value)[:40]
        self.made.append(Kind(f"{table} {op}: {path} {words}", table, key, _json(envelope), lands))

    def key(self, name: str, change: Callable[[int], bytes | None]) -> None:
        """Add a sound and a broken message with another key; `change` gets the row's id.

        The sound one lands by its image: what the key is, `message.key.columns` may decide.
        """
        _, envelope = self.sound("orders")
        key = change(envelope["after"]["id"])
        self.made.append(Kind(f"key: {name}", "orders", key, _json(envelope), lands=True))
        self.made.append(Kind(f"key: {name}, on a broken message", "orders", key, b"{"))


def truncations() -> list[Kind]:
    """Return a message cut off at every position."""
    kinds = _Kinds()
    key, envelope = kinds.sound("orders")
    whole = _json(envelope)
    return [Kind(f"cut at {n}", "orders", key, whole[:n]) for n in range(len(whole))]


def kinds() -> list[Kind]:
    """Return all other kinds."""
    made = _Kinds()
    for add in (
        _not_text,
        _not_json,
        _odd_json,
        _not_an_envelope,
        _no_place,
        _wrong_types,
        _out_of_range,
        _keys,
        _huge,
    ):
        add(made)
    names = [kind.name for kind in made.made]
    assert len(set(names)) == len(names)
    return made.made


def _not_text(made: _Kinds) -> None:
    made.text("nothing", lambda _: b"")
    made.text("a NUL", lambda _: b"\0")
    made.text("many NULs", lambda _: b"\0" * 1000)
    made.text("a byte order mark", lambda text: b"\xef\xbb\xbf" + text)
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "cp500"):
        made.text(encoding, lambda text, e=encoding: text.decode().encode(e))  # type: ignore[misc]
    for name, odd in {
        "latin-1": b"\xe9",
        "overlong NUL": b"\xc0\x80",
        "overlong slash": b"\xe0\x80\xaf",
        "surrogate in UTF-8": b"\xed\xa0\x80",
        "half a character": b"\xe2\x82",
        "beyond Unicode": b"\xf4\x90\x80\x80",
        "lone continuation": b"\x80",
        "byte FF": b"\xff",
    }.items():
        made.text(name, lambda text, o=odd: text.replace(b'"T"', b'"T' + o + b'"'))  # type: ignore[misc]
    made.text("gzip", gzip.compress)
    made.text("Avro with a schema id", lambda text: b"\0\0\0\0\x07" + text)
    made.text("a Java object", lambda _: b"\xac\xed\x00\x05sr\x00\x0ejava.lang.Long")
    made.text("every byte", lambda _: bytes(range(256)))


def _not_json(made: _Kinds) -> None:
    for text in (
        "text",
        "op=c",
        "<after/>",
        "---\nop: c",
        "{",
        "}",
        "{]",
        "[",
        '"',
        "{{}}",
        "nul",
        "undefined",
    ):
        made.text(f"not JSON: {text!r}", lambda _, t=text: t.encode())  # type: ignore[misc]
    replaced = {
        "single quotes": ('"', "'"),
        "no quotes around names": ('"op":', "op:"),
        "a comma too few": (',"after"', '"after"'),
        "a colon too few": ('"op":', '"op"'),
        "a raw line break in a text": ('"T"', '"T\n"'),
        "a raw NUL in a text": ('"T"', '"T\0"'),
        "a raw tab in a text": ('"T"', '"T\t"'),
        "an unknown escape": ('"T"', r'"T\x41"'),
        "half an escape": ('"T"', r'"T\u00"'),
        "a lone high surrogate": ('"T"', r'"T\ud800"'),
        "a lone low surrogate": ('"T"', r'"T\udc00"'),
        "surrogates the wrong way round": ('"T"', r'"T\udc00\ud800"'),
        "a lone surrogate in a column that is not stored": (f'"note":"{MARKER}"', r'"note":"\ud800"'),
        "a leading zero": ('"user_id":1', '"user_id":01'),
        "a plus sign": ('"user_id":1', '"user_id":+1'),
        "a hexadecimal number": ('"user_id":1', '"user_id":0x1'),
        "a number with underscores": ('"user_id":1', '"user_id":1_0'),
        "a bare point": ('"user_id":1', '"user_id":.1'),
        "True": ('"cancelled_at":null', '"cancelled_at":True'),
        "None": ('"cancelled_at":null', '"cancelled_at":None'),
    }
    for name, (old, new) in replaced.items():
        made.text(name, lambda text, o=old, n=new: text.replace(o.encode(), n.encode()))  # type: ignore[misc]
    made.text("something after it", lambda text: text + b"x")
    made.text("two of them", lambda text: text + text)
    made.text("a brace too many", lambda text: text + b"}")
    made.text("the last byte missing twice over", lambda text: text[:-2])
    for name, value in {
        "NaN": "NaN",
        "Infinity": "Infinity",
        "-Infinity": "-Infinity",
        "1e999": "1e999",
    }.items():
        made.text(
            f"amount {name}",
            lambda text, v=value: text.replace(b'"amount_total":"107.50"', b'"amount_total":' + v.encode()),  # type: ignore[misc]
        )
        made.text(
            f"discount {name}",
            lambda text, v=value: text.replace(
                b'"practitioner_discount":-5.0', b'"practitioner_discount":' + v.encode()
            ),  # type: ignore[misc]
            "users",
        )


def _odd_json(made: _Kinds) -> None:
    """What is sound JSON, however odd."""
    made.text("white space around", lambda text: b" \r\n\t" + text + b"\n ", lands=True)
    made.text("names written with escapes", lambda text: text.replace(b'"op"', rb'"\u006fp"'), lands=True)
    made.text("a surrogate pair", lambda text: text.replace(b'"T"', rb'"\ud83d\ude00"'), lands=True)
    made.text("an emoji", lambda text: text.replace(b'"T"', '"😀"'.encode()), lands=True)
    made.text("the amount as a number", lambda text: text.replace(b'"107.50"', b"107.50"), lands=True)
    made.text("indented", lambda text: json.dumps(json.loads(text), indent=4).encode(), lands=True)
    made.text("sorted", lambda text: json.dumps(json.loads(text), sort_keys=True).encode(), lands=True)
    # Of a name that comes twice the first counts.
    made.text("an image twice", lambda text: text.replace(b'"op":', b'"after":{},"op":'), lands=True)
    made.text("an op twice", lambda text: text.replace(b'"op":', b'"op":"d","op":'))
    made.text("a column twice", lambda text: text.replace(b'"user_id":', b'"user_id":[],"user_id":'))
    made.text("an escaped NUL in a text", lambda text: text.replace(b'"T"', rb'"T\u0000"'), lands=True)


def _not_an_envelope(made: _Kinds) -> None:
    tops: tuple[object, ...] = (
        None,
        True,
        False,
        0,
        1.5,
        "op",
        [],
        [1, 2],
        [[]],
        {},
        {"op": None},
        {"a": {"op": "c"}},
    )
    for top in tops:
        made.text(f"top level {top!r}", lambda _, t=top: json.dumps(t).encode())  # type: ignore[misc]
    for op in (NEVER, None, "", "x", "C", "m", "t", "cc", "create", 1, True, [], {}, ["c"]):
        made.field("op", op)
    for op in "cru":
        for image in (NEVER, None, [], [1], "", "text", 0, 1, True, {}):
            made.field("after", image, op=op)
    for image in (NEVER, None, [], "", 1, True, {}):
        made.field("before", image, op="d")
    made.text("an embedded schema", lambda text: b'{"schema":{},"payload":' + text + b"}")
    made.text("inside an array", lambda text: b"[" + text + b"]")
    made.text("inside a text", lambda text: json.dumps(text.decode()).encode())
    made.text("flattened", lambda text: json.dumps(json.loads(text)["after"]).encode())


def _no_place(made: _Kinds) -> None:
    for source in (NEVER, None, [], "", 1, True, {}):
        made.field("source", source)
    for at in (NEVER, None, 0, -1, 1.5, "", "now", True, [], {}, 253_402_300_800_000, 2**63, -(2**63) - 1):
        made.field("source.ts_ms", at)
    for file in (NEVER, None, [], {}):
        made.field("source.file", file)
    for pos in (NEVER, None, "", "here", 1.5, [], {}, 2**63):
        made.field("source.pos", pos)


_NOT_A_NUMBER: tuple[object, ...] = ("", " ", "abc", "0x10", True, False, [], [1], {}, {"a": 1})
_WRONG: dict[str, tuple[object, ...]] = {
    "int": (*_NOT_A_NUMBER, "1.0", "1e3", " 1", 1.5, 1e3, 2**63, -(2**63) - 1),
    "small int": (*_NOT_A_NUMBER, 1.5, 2**31, -(2**31) - 1),
    "decimal": (*_NOT_A_NUMBER, "1,5", "AfQ=", "1.2.3", "--1", "NaN", "Infinity", "1e30", 10**15),
    "time": (*_NOT_A_NUMBER, "2024-01-01", 1.5, 1e12, 2**63, 253_402_300_800_000, -(10**15)),
    "text": (True, False, [], ["a"], {}, {"a": 1}),
}


def _wrong_types(made: _Kinds) -> None:
    columns = {
        "users": {"practitioner_id": "int", "practitioner_discount": "decimal", "register_date": "time"},
        "orders": {
            "user_id": "int",
            "shipping_method_id": "int",
            "transaction_id": "text",
            "voucher_code": "text",
            "date": "time",
            "cancelled_at": "time",
            "amount_total": "decimal",
            "amount_refunded": "decimal",
        },
        "order_items": {"quantity": "small int", "order_id": "int", "unit_price": "decimal"},
    }
    for table, kinds_of in columns.items():
        for column, kind in kinds_of.items():
            for value in _WRONG[kind]:
                made.field(f"after.{column}", value, table)
    for value in _WRONG["int"]:
        made.field("after.id", value)
    made.field("after.user_id", "7", lands=True)  # a number in quotes is that number
    made.field("after.transaction_id", 7, lands=True)  # and a number where a text is due is its text


def _out_of_range(made: _Kinds) -> None:
    for discount in (5.0, 0.01, 100.0, -100.01, -1000.0, 1e308, -1e308):
        made.field("after.practitioner_discount", discount, "users")
    sound: tuple[object, ...] = (0.0, -0.0, -100.0, -1e-9, None, "-5.0")
    for value in sound:
        made.field("after.practitioner_discount", value, "users", lands=True)
    for op in "ru":
        made.field("after.practitioner_discount", 5.0, "users", op)
    for amount in ("-0.01", -1, "-99999.99"):
        made.field("after.amount_total", amount)
    sound = ("0.00", 0, None, "0.005")
    for value in sound:
        made.field("after.amount_total", value, lands=True)
    for date in (0, None, NEVER):  # MySQL's zero date comes as 1970-01-01
        made.field("after.date", date)
    made.field("after.date", 1, lands=True)
    made.field("after.cancelled_at", -1, lands=True)
    made.field("after.id", None)
    made.field("after.id", NEVER)
    made.field("before.id", NEVER, op="d")
    made.field("after.user_id", NEVER)
    made.field("after.amount_total", NEVER)
    made.field("after.practitioner_discount", NEVER, "users")
    made.field("after.transaction_id", NEVER, lands=True)
    made.field("before", None, "users", "u", lands=True)
    made.field("before", NEVER, "users", "u", lands=True)


def _keys(made: _Kinds) -> None:
    made.key("none", lambda _: None)
    made.key("empty", lambda _: b"")
    made.key("not JSON", lambda number: f"id={number}".encode())
    made.key("not text", lambda _: b"\xff\xfe")
    made.key("another row's", lambda number: b'{"id":%d}' % (number + 5_000))
    made.key("another column", lambda number: b'{"order":%d}' % number)
    made.key("null", lambda _: b'{"id":null}')
    made.key("a list", lambda number: b"[%d]" % number)
    made.key("a bare number", lambda number: b"%d" % number)
    made.key("a list in it", lambda number: b'{"id":[%d]}' % number)
    made.key("personal data", lambda _: json.dumps({"id": MARKER}).encode())
    made.key("a lone surrogate", lambda _: rb'{"id":"\ud800"}')
    made.key("nested deeply", lambda _: b'{"id":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
    made.key("a million digits", lambda _: b'{"id":' + b"9" * 1_000_000 + b"}")


def _huge(made: _Kinds) -> None:
    mega = 1_000_000
    big = "A" * mega
    made.field("after.transaction_id", big, lands=True)
    made.text(
        "a megabyte in a column that is excluded",
        lambda t: t.replace(b'"clinic_id"', b'"phone":"%b","clinic_id"' % big.encode()),
        "users",
        lands=True,
    )
    made.text(
        "a megabyte in an unknown column", lambda t: t.replace(MARKER.encode(), big.encode()), lands=True
    )
    made.text("a megabyte of spaces", lambda t: b" " * mega + t, lands=True)
    made.text("a megabyte of braces", lambda _: b"{" * mega)
    made.text("a megabyte of brackets, well nested", lambda _: b"[" * mega + b"]" * mega)
    made.text("a megabyte of As", lambda _: big.encode())
    made.text("a megabyte of digits", lambda _: b"9" * mega)
    made.text("an amount of a megabyte", lambda t: t.replace(b'"107.50"', b"9" * mega))
    made.text("an amount of a megabyte of text", lambda t: t.replace(b'"107.50"', b'"' + big.encode() + b'"'))
    made.text("an op of a megabyte", lambda t: t.replace(b'"op":"c"', b'"op":"' + big.encode() + b'"'))
    made.text(
        "an unknown column nested deeply",
        lambda t: t.replace(f'"{MARKER}"'.encode(), b"[" * 500 + b"]" * 500),
        lands=True,
    )
    made.text("a stored column nested deeply", lambda t: t.replace(b'"107.50"', b"[" * 5_000 + b"]" * 5_000))
    made.text(
        "an image nested deeply",
        lambda t: b'{"op":"c","after":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"}",
    )
    many = ",".join(f'"c{n}":{n}' for n in range(2_000))
    made.text(
        "thousands of columns", lambda t: t.replace(b'"user_id"', many.encode() + b',"user_id"'), lands=True
    )


def _json(envelope: dict[str, Any]) -> bytes:
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode()
