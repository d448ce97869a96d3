"""The page of a mart: partitions, rows, checks, and computing days again."""

import time
from collections.abc import Callable
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


def test_yesterdays_partition_is_materialized_with_its_number_of_rows(demo: Demo, browser: Browser) -> None:
    day = demo.yesterday()
    browser.open(f"/assets/{MART}?view=partitions&partition={day}", "Materialized\n", "partition_row_count")

    def agree() -> bool:
        """The page follows the file: a late change of yesterday's orders may come between the two."""
        ((rows,),) = demo.query(f"SELECT count(*) FROM {MART} WHERE order_date = ?", day)
        return rows > 0 and f"partition_row_count\n\t\n{rows}\n" in browser.text()

    until(agree, lambda: f"the number of rows in the file:\n{browser.text()}")


def test_the_days_of_the_history_are_materialized(demo: Demo, browser: Browser) -> None:
    def told() -> bool:
        ((days,),) = demo.query(f"SELECT count(DISTINCT order_date) FROM {MART}")
        return days >= 90 and f"Materialized ({days})" in browser.text()

    browser.open(f"/assets/{MART}?view=partitions", "Materialized (", "Failed (0)")
    until(told, lambda: f"as many days as the file has:\n{browser.text()}")


def test_the_page_tells_what_the_mart_answers_and_when_it_was_computed(
    browser: Browser, picture: Callable[[str], None]
) -> None:
    browser.resize(1600, 1250)  # down to the metadata
    page = browser.open(
        f"/assets/{MART}", "Latest materialization", "What were the orders of a day worth", "sum_amount"
    )
    assert "marts" in page
    assert "DuckDB" in page
    picture("asset.png")


def test_the_checks_of_orders_are_listed_and_have_passed(browser: Browser) -> None:
    page = browser.open("/assets/orders_with_discount?view=checks", "Checks (", "Passed")
    for check in ("unique", "discount_is_a_percentage", "every_order_once", "refund_within_order"):
        assert f"{check}\nSucceeded" in page


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
