"""Computing days again from the UI; last of these files, as it changes what the pages show."""

import time
from datetime import date, timedelta
from typing import Any

from tests.ui.browser import Browser
from tests.ui.demo import Demo
from tests.ui.waiting import until

MART = "order_value_by_discount_day"

_BACKFILL_RUNS = """{ partitionBackfillsOrError(limit: 1) { ... on PartitionBackfills { results {
  status partitionNames runs(limit: 10) { status }
} } } }"""
_FAILED = """{ runsOrError(filter: {statuses: [FAILURE]}) { ... on Runs { results { jobName } } } }"""


def test_days_are_computed_again_while_news_goes_on_landing(demo: Demo, browser: Browser) -> None:
    first = demo.yesterday() - timedelta(days=3)
    days = [first, first + timedelta(days=1)]
    asked_at = time.time()
    browser.open(
        f"/assets/{MART}?view=partitions&default_range=%5B{days[0]}...{days[1]}%5D", "2 Partitions Selected"
    )
    browser.click("//button[contains(., 'Materialize')]")
    browser.wait_for("Launch runs to materialize", "2 partitions")
    browser.click("//button[normalize-space() = 'Launch backfill']")

    def backfill() -> Any:
        found = demo.graphql(_BACKFILL_RUNS)["partitionBackfillsOrError"]["results"]
        return found[0] if found else None

    def is_done() -> bool:
        found = backfill()
        assert not found or "FAIL" not in found["status"], found
        return bool(found) and found["status"] == "COMPLETED_SUCCESS"

    until(is_done, lambda: f"the end of the backfill: {backfill()}", seconds=120)
    assert backfill()["partitionNames"] == [day.isoformat() for day in days]
    assert backfill()["runs"] == [{"status": "SUCCESS"}]
    for day in days:
        _is_computed_again(demo, day, asked_at)
    until(
        lambda: _news(demo) > asked_at,
        lambda: f"news since {asked_at}: {_news(demo)}",
    )
    assert demo.graphql(_FAILED)["runsOrError"]["results"] == []


def _is_computed_again(demo: Demo, day: date, asked_at: float) -> None:
    found = demo.latest(MART, day)
    ((rows,),) = demo.query(f"SELECT count(*) FROM {MART} WHERE order_date = ?", day)
    assert found
    assert found["timestamp"] > asked_at
    assert rows > 0


def _news(demo: Demo) -> float:
    """Return when a micro-batch last told of today's orders; its reports belong to no run."""
    found = demo.latest(MART, demo.yesterday() + timedelta(days=1))
    return found["timestamp"] if found and not found["runId"] else 0.0
