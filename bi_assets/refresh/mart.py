"""A mart as its file declares it: `marts/NAME.sql`, or `marts/NAME.py` where SQL can't say it.

A SQL file is one SELECT below a comment of TOML; a Python file has the TOML in `DECLARATION` and
a function `compute(inputs, context)`. The declaration feeds everything else: the asset, its
lineage and checks, the published comments, docs and exports.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from bi_assets.history.touched import RULES
from bi_assets.sql import one

if TYPE_CHECKING:
    from typing import TypeAlias

    import polars as pl
    import pyarrow as pa

    Frame: TypeAlias = pl.DataFrame | pa.Table

MARTS = Path(__file__).parent.parent / "marts"
_FEW_DAYS = 200
SEVERITIES = ("error", "warning")
UNITS = ("money", "percent", "count", "UTC", "date", "ms", "")
_SETTINGS = {
    "question",
    "grain",
    "partition",
    "inputs",
    "schedule",
    "columns",
    "checks",
    "not_null",
}


class MartError(Exception):
    """A mart file that can't be used: file, line, what to do."""


@dataclass(frozen=True)
class MartColumn:
    """A column of a mart. Python marts declare its `type`; that of SQL is known once it is bound."""

    name: str
    meaning: str
    unit: str = ""
    type: str | None = None


@dataclass(frozen=True)
class Check:
    """Something that must be true of a mart.

    `breaches` is SQL for the rows that break it; it may read `refreshed`, the rows just computed,
    and `days`, their partitions. Severity error keeps the last good version published.
    """

    name: str
    sentence: str
    breaches: str
    severity: str = "error"


@dataclass(frozen=True)
class Context:
    """What a Python mart is told beside its inputs: the last whole business date."""

    as_of: date | None


@dataclass(frozen=True)
class Mart:
    """An answer. `inputs` are qualified names such as `history.users` or `marts.order_lines`."""

    name: str
    file: Path
    question: str
    grain: tuple[str, ...]
    columns: tuple[MartColumn, ...]
    checks: tuple[Check, ...]
    inputs: tuple[str, ...]
    digest: str
    partition: str | None = None
    sql: str | None = None
    schedule: str | None = None

    @property
    def table(self) -> str:
        """The mart's table in the core database."""
        return f"marts.{self.name}"

    def only(self, days: Sequence[date] | None) -> str:
        """Return SQL that keeps these days of the mart, with its WHERE; nothing where they are None."""
        if days is None:
            return ""
        values = ", ".join(f"DATE '{day}'" for day in days)
        if len(days) <= _FEW_DAYS:
            # Constants reach the scan, and skip what lies outside.
            return f" WHERE {self.partition} IN ({values})"
        return (
            f" WHERE {self.partition} BETWEEN DATE '{min(days)}' AND DATE '{max(days)}' "
            f"AND {self.partition} IN (SELECT UNNEST([{values}]))"
        )

    def compute(self, inputs: Mapping[str, duckdb.DuckDBPyRelation], context: Context) -> Frame:
        """Run a Python mart's function.

        It gets its inputs as relations: what SQL can filter and sum is summed there, and only what
        statistics need becomes a frame (`.pl()`, `.to_arrow_table()`).
        """
        spec = importlib.util.spec_from_file_location(f"bi_assets.marts.{self.name}", self.file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        result: Frame = module.compute(inputs, context)
        return result


def load_marts(folder: Path = MARTS) -> tuple[dict[str, Mart], list[str]]:
    """Read every mart, those that others read first: by name, and what is wrong with the others."""
    marts: dict[str, Mart] = {}
    faults: list[str] = []
    for path in sorted([*folder.glob("*.sql"), *folder.glob("*.py")]):
        if path.stem.startswith("_"):
            continue
        try:
            marts[path.stem] = load_mart(path)
        except MartError as error:
            faults.append(f"marts/{error}")
    return _in_order(marts, faults), faults


def load_mart(path: Path) -> Mart:
    """Read one mart file. Errors: `MartError`."""
    text = path.read_text()
    toml, sql = _split(path, text)
    try:
        raw = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise MartError(f"{path.name}: the declaration is not TOML: {error}.") from error
    if unknown := set(raw) - _SETTINGS:
        raise MartError(f"{path.name}: unknown setting {', '.join(sorted(unknown))}.")
    for name in ("question", "grain", "columns"):
        if not raw.get(name):
            raise MartError(f"{path.name}: the declaration lacks {name}.")
    columns = tuple(_column(path, name, declared) for name, declared in raw["columns"].items())
    partition = raw.get("partition")
    if partition is not None and partition not in RULES:
        raise MartError(f"{path.name}: partition {partition!r} is none of {', '.join(RULES)}.")
    grain = tuple(raw["grain"])
    for name in (*grain, *filter(None, [partition])):
        if name not in {column.name for column in columns}:
            raise MartError(f"{path.name}: {name!r} is not under [columns].")
    return Mart(
        name=path.stem,
        file=path,
        question=raw["question"],
        grain=grain,
        columns=columns,
        checks=tuple(_checks(path, raw, grain)),
        inputs=_inputs(path, sql) if sql else tuple(raw.get("inputs", ())),
        digest=hashlib.sha256(text.encode()).hexdigest(),
        partition=partition,
        sql=sql,
        schedule=raw.get("schedule"),
    )


def _split(path: Path, text: str) -> tuple[str, str | None]:
    if path.suffix == ".sql":
        match = re.match(r"\s*/\*(.*?)\*/\s*(.*)\Z", text, re.DOTALL)
        if not match:
            raise MartError(f"{path.name}, line 1: no declaration; begin with /* TOML */.")
        return match[1], match[2].strip().rstrip(";")
    match = re.search(r'^DECLARATION = """(.*?)"""', text, re.DOTALL | re.MULTILINE)
    if not match:
        raise MartError(f'{path.name}, line 1: no DECLARATION = """TOML""".')
    return match[1], None


def _column(path: Path, name: str, declared: Any) -> MartColumn:
    settings = {"meaning": declared} if isinstance(declared, str) else dict(declared)
    if unknown := set(settings) - {"meaning", "unit", "type"}:
        raise MartError(f"{path.name}: column {name}: unknown setting {', '.join(sorted(unknown))}.")
    column = MartColumn(name=name, meaning=settings.get("meaning", ""), **{
        setting: value for setting, value in settings.items() if setting != "meaning"
    })  # fmt: skip
    if column.unit not in UNITS:
        raise MartError(f"{path.name}: column {name}: unit {column.unit!r} is none of {UNITS}.")
    return column


def _checks(path: Path, raw: Mapping[str, Any], grain: tuple[str, ...]) -> list[Check]:
    key = ", ".join(grain)
    checks = [
        Check("unique", f"There is one row per {key}.",
              f"SELECT {key} FROM refreshed GROUP BY ALL HAVING count(*) > 1")
    ]  # fmt: skip
    checks += [
        Check(f"{name}_not_null", f"{name} is always known.",
              f"SELECT {key} FROM refreshed WHERE {name} IS NULL")
        for name in raw.get("not_null", [])
    ]  # fmt: skip
    for declared in raw.get("checks", []):
        settings = dict(declared)
        holds = settings.pop("holds", None)
        if holds is not None:
            settings["breaches"] = f"SELECT {key} FROM refreshed WHERE NOT ({holds})"
        if settings.get("severity", "error") not in SEVERITIES:
            raise MartError(f"{path.name}: a check's severity is one of {', '.join(SEVERITIES)}.")
        try:
            checks.append(Check(**settings))
        except TypeError as error:
            raise MartError(
                f"{path.name}: a check has name, sentence, severity, and holds or breaches: {error}."
            ) from error
    return checks


def _inputs(path: Path, sql: str) -> tuple[str, ...]:
    """Names of the tables that a SELECT reads, as the database itself parses it."""
    with duckdb.connect() as parser:
        (text,) = one(parser, "SELECT json_serialize_sql($sql)", {"sql": sql})
    tree = json.loads(text)
    if tree["error"]:
        raise MartError(f"{path.name}: not SQL that can be read: {tree['error_message'].splitlines()[0]}")
    return tuple(sorted(set(_tables(tree))))


def _tables(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get("type") == "BASE_TABLE" and node["schema_name"]:
            yield f"{node['schema_name']}.{node['table_name']}"
        node = list(node.values())
    if isinstance(node, list):
        for child in node:
            yield from _tables(child)


def _in_order(marts: dict[str, Mart], faults: list[str]) -> dict[str, Mart]:
    """Sort marts so that each comes after those it reads; report those that can't be had."""
    done: dict[str, Mart] = {}
    waiting = dict(marts)
    while waiting:
        ready = [
            mart
            for mart in waiting.values()
            if all(not i.startswith("marts.") or i.removeprefix("marts.") in done for i in mart.inputs)
        ]
        if not ready:
            for mart in waiting.values():
                needs = [i for i in mart.inputs if i.startswith("marts.")]
                faults.append(
                    f"marts/{mart.file.name}: reads {', '.join(needs)}, not all of which can be had "
                    "(missing, faulty, or in a circle)."
                )
            break
        for mart in ready:
            done[mart.name] = waiting.pop(mart.name)
    return done
