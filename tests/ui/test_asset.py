"""The page of a mart: what it says of itself, its partitions, rows and checks."""

from collections.abc import Callable

from tests.ui.browser import Browser
from tests.ui.demo import Demo
from tests.ui.waiting import until

MART = "order_value_by_discount_day"


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
    checks = ("unique", "discount_is_a_percentage", "every_order_once", "refund_within_order")
    # They are reported a few at a time.
    browser.open(
        "/assets/orders_with_discount?view=checks",
        "Checks (",
        "Passed",
        *(f"{check}\nSucceeded" for check in checks),
    )
