"""Tells Dagster which partitions a micro-batch refreshed, and how their checks came out.

Reported as events without a run, so that purging old runs can't turn a partition back to
"missing". An event takes some ten milliseconds, so that the analysts' file comes first: what is
to be reported waits in `meta.unreported`, written with the data, and goes out when nothing is
left to land. A crash repeats a report and never loses one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from bi_assets.orchestration import keys, metadata
from bi_assets.outputs.publish import Published
from bi_assets.refresh.mart import Check, Mart
from bi_assets.refresh.refresh import COMPUTES, CheckResult
from bi_assets.warehouse import Warehouse

_AT_A_TIME = 5  # a tenth of a second: news does not wait longer than that
_SETTLED_SECONDS = 10.0
_LOOK_EVERY_SECONDS = 2.0
_FINISH_SECONDS = 2.0


@dataclass
class Reporter:
    """Reports on behalf of a run."""

    warehouse: Warehouse
    instance: dg.DagsterInstance
    run_id: str
    _described: set[str] = field(default_factory=set)
    _look_again_at: float = 0.0

    def report(self, is_ending: bool) -> bool:
        """Report a few of the partitions and checks; tell whether there are more.

        Until the run is ending, only those that no batch has changed for some seconds: a day that
        changes all the time is reported once a run, not once a batch.
        """
        if not is_ending and time.monotonic() < self._look_again_at:
            return False
        settled_for = 0.0 if is_ending else _SETTLED_SECONDS
        with self.warehouse.open() as con:
            settled = {"n": _AT_A_TIME, "until": _now() - timedelta(seconds=settled_for)}
            rows = con.execute(
                "SELECT mart, day, rows, refreshed_at, cause FROM meta.unreported "
                "WHERE refreshed_at <= $until "
                # The newest day last, and a mart after those that it reads.
                "ORDER BY day, list_position($order, mart) LIMIT $n",
                {"order": list(self.warehouse.marts), **settled},
            ).fetchall()
            checks = con.execute(
                "SELECT mart, name, breaches, checked_at FROM meta.checks "
                "WHERE NOT reported AND checked_at <= $until LIMIT $n",
                settled,
            ).fetchall()
        if not rows and not checks:
            self._look_again_at = time.monotonic() + _LOOK_EVERY_SECONDS
            return False
        for name, day, n, _, cause in rows:
            if name in self.warehouse.marts:
                self._materialized(self.warehouse.marts[name], day, n, cause)
        for name, check, breaches, _ in checks:
            self._checked(name, check, breaches)
        with self.warehouse.open() as con:
            for name, day, _, at, _ in rows:
                con.execute(
                    "DELETE FROM meta.unreported WHERE mart = ? AND day IS NOT DISTINCT FROM ? "
                    "AND refreshed_at = ?",
                    [name, day, at],
                )
            for name, check, _, at in checks:
                con.execute(
                    "UPDATE meta.checks SET reported = true WHERE mart = ? AND name = ? AND checked_at = ?",
                    [name, check, at],
                )
        return True

    def finish(self) -> None:
        """Report what is left, for some seconds; a later run reports the rest."""
        deadline = time.monotonic() + _FINISH_SECONDS
        while self.report(is_ending=True) and time.monotonic() < deadline:
            pass

    def published(self, result: Published, took: Mapping[str, float]) -> None:
        """Report the analysts' file, and how long the steps of the last batch took."""
        told: dict[str, Any] = {
            "run": dg.MetadataValue.dagster_run(self.run_id),
            **metadata.published(result),
            **{f"milliseconds to {step}": round(seconds * 1000) for step, seconds in took.items()},
        }
        self.instance.report_runless_asset_event(dg.AssetMaterialization(keys.PUBLISHED, metadata=told))

    def _materialized(self, mart: Mart, day: date | None, rows: int, cause: str) -> None:
        if day and not self._is_partition(mart, day):
            return
        told: dict[str, Any] = {"cause": cause, "run": dg.MetadataValue.dagster_run(self.run_id)}
        told["dagster/partition_row_count" if day else "dagster/row_count"] = rows
        if mart.name not in self._described:
            self._described.add(mart.name)
            told |= metadata.mart_lineage(self.warehouse, mart)
        self.instance.report_runless_asset_event(
            dg.AssetMaterialization(
                keys.mart(mart.name), partition=day.isoformat() if day else None, metadata=told
            )
        )

    def _is_partition(self, mart: Mart, day: date) -> bool:
        """Orders before BI_FIRST_DATE or after tomorrow are in the tables, outside the partitions."""
        days = keys.partitions(mart, self.warehouse.settings)
        return days is not None and days.has_partition_key(day.isoformat())

    def _checked(self, mart: str, name: str, breaches: int) -> None:
        found = self.warehouse.marts.get(mart)
        check = next((c for c in (COMPUTES, *found.checks) if c.name == name), None) if found else None
        if found and check:
            result = check_result(found, CheckResult(check, breaches))
            self.instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=keys.mart(mart),
                    check_name=name,
                    passed=result.passed,
                    severity=result.severity,
                    metadata=result.metadata or {},
                )
            )


def _now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


def check_result(mart: Mart, result: CheckResult) -> dg.AssetCheckResult:
    """Return the outcome of a check as Dagster takes it."""
    return dg.AssetCheckResult(
        asset_key=keys.mart(mart.name),
        check_name=result.check.name,
        passed=result.breaches == 0,
        severity=_severity(result.check),
        metadata={"rows that break it": result.breaches},
    )


def _severity(check: Check) -> dg.AssetCheckSeverity:
    return dg.AssetCheckSeverity.ERROR if check.severity == "error" else dg.AssetCheckSeverity.WARN
