"""What a source table looks like: read from `TABLE.toml`, believed by everyone downstream."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

CONTRACTS = Path(__file__).parent
SCHEMA_CHANGES = ("report", "accept", "quarantine")
PRIVACY_CLASSES = ("key", "business", "pseudonym", "excluded")
PATIENTS = "users"
"""The table of the patients. A pseudonym names one of them unless `belongs_to` says otherwise."""
_STORED = {
    "bigint": "BIGINT",
    "bigint unsigned": "UBIGINT",
    "int": "INTEGER",
    "tinyint(1)": "BOOLEAN",
    "double": "DECIMAL(18,4)",
    "varchar": "VARCHAR",
    "date": "DATE",
}
"""MySQL type -> how it is stored. Doubles are money or percentages here, never floats (G2)."""


class ContractError(Exception):
    """A contract file that can't be used: file, line, what to do."""


@dataclass(frozen=True)
class Column:
    """A column of a source table.

    `type` is the MySQL type; `required` means the shop must have the column, `not_null` that
    every row must fill it; `minimum` and `maximum` bound numbers; `when_absent` is stored where
    the shop's row has no such column at all (unlike null); `belongs_to` is the table that the value is
    a key of, where a row is a part of that row and goes when it is erased.
    """

    name: str
    type: str
    privacy: str
    meaning: str = ""
    required: bool = False
    not_null: bool = False
    minimum: Decimal | None = None
    maximum: Decimal | None = None
    when_absent: str | None = None
    belongs_to: str | None = None

    @property
    def stored_type(self) -> str:
        """DuckDB type of the plain (not pseudonymized) value."""
        if self.type.startswith("decimal"):
            return "DECIMAL(18,4)"
        if self.type.startswith("datetime"):
            return "TIMESTAMP"
        return _STORED[self.type]


@dataclass(frozen=True)
class Contract:
    """A source table: its key and its columns, in the file's order, excluded ones apart.

    `schema_changes` is what becomes of rows whose columns are not the contract's; see `landing.drift`.
    """

    table: str
    meaning: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    excluded: tuple[str, ...]
    business_date: str | None = None
    schema_changes: str = "report"

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the columns that are stored."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def fields(self) -> frozenset[str]:
        """Every column the contract knows of, excluded ones too: any other is schema drift."""
        return frozenset((*self.names, *self.excluded))


def load_contract(path: Path) -> Contract:
    """Read one contract file. Errors: `ContractError`."""
    text = path.read_text()
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ContractError(f"{path.name}: not TOML: {error}.") from error
    declarations = raw.get("columns")
    if not isinstance(declarations, dict):
        raise ContractError(f"{path.name}, line {_line(text, 'columns')}: columns belong under [columns].")
    columns = tuple(_column(path, text, name, declared) for name, declared in declarations.items())
    contract = Contract(
        table=path.stem,
        meaning=raw.get("meaning", ""),
        key=tuple(raw.get("key", ())),
        columns=tuple(column for column in columns if column.privacy != "excluded"),
        excluded=tuple(column.name for column in columns if column.privacy == "excluded"),
        business_date=raw.get("business_date"),
        schema_changes=raw.get("schema_changes", "report"),
    )
    if contract.schema_changes not in SCHEMA_CHANGES:
        raise ContractError(
            f"{path.name}, line {_line(text, 'schema_changes')}: schema_changes must be one of "
            f"{', '.join(SCHEMA_CHANGES)}."
        )
    for name in (*contract.key, *filter(None, [contract.business_date])):
        if name not in contract.names:
            raise ContractError(
                f"{path.name}, line {_line(text, name)}: {name!r} is not a stored column; "
                "declare it under [columns]."
            )
    if not contract.key:
        raise ContractError(f'{path.name}, line 1: no key; add key = ["id"].')
    return contract


def load_contracts(folder: Path = CONTRACTS) -> tuple[dict[str, Contract], list[str]]:
    """Read every contract: those that hold by table name, and what is wrong with the others."""
    contracts: dict[str, Contract] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.toml")):
        try:
            contracts[path.stem] = load_contract(path)
        except ContractError as error:
            faults.append(f"contracts/{error}")
    return contracts, faults


def _column(path: Path, text: str, name: str, declared: Any) -> Column:
    where = f"{path.name}, line {_line(text, name)}: column {name}"
    if not isinstance(declared, dict):
        raise ContractError(f"{where}: write it as {{ type = ..., privacy = ... }}.")
    unknown = set(declared) - {
        "type", "privacy", "meaning", "required", "not_null", "min", "max", "when_absent", "belongs_to",
    }  # fmt: skip
    if unknown:
        raise ContractError(f"{where}: unknown setting {', '.join(sorted(unknown))}.")
    kind = str(declared.get("type", ""))
    if kind not in _STORED and not re.fullmatch(r"decimal\(\d+,\d+\)|datetime\([0-6]\)", kind):
        known = ", ".join([*_STORED, "decimal(p,s)", "datetime(0-6)"])
        raise ContractError(f"{where}: type {kind!r} is none of {known}.")
    if declared.get("privacy") not in PRIVACY_CLASSES:
        raise ContractError(f"{where}: privacy must be one of {', '.join(PRIVACY_CLASSES)}.")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
        raise ContractError(f"{where}: a name is letters, digits and _, and starts with a letter.")
    return Column(
        name=name,
        type=kind,
        privacy=declared["privacy"],
        meaning=declared.get("meaning", ""),
        required=declared.get("required", False),
        not_null=declared.get("not_null", False),
        minimum=_bound(where, declared.get("min")),
        maximum=_bound(where, declared.get("max")),
        when_absent=declared.get("when_absent"),
        belongs_to=declared.get("belongs_to", PATIENTS if declared["privacy"] == "pseudonym" else None),
    )


def _bound(where: str, value: object) -> Decimal | None:
    if value is not None and not isinstance(value, int | float):
        raise ContractError(f"{where}: min and max are numbers, not {value!r}.")
    return None if value is None else Decimal(str(value))


def _line(text: str, word: str) -> int:
    """Line where a name is declared; 1 where it is not found."""
    for number, line in enumerate(text.splitlines(), start=1):
        if re.match(rf"{re.escape(word)}\s*=", line):
            return number
    return 1
