"""From the shop's table to the analysts' file: what the graph shows, and where a column comes from."""

from collections.abc import Callable
from itertools import pairwise
from urllib.parse import quote

from tests.ui.browser import Browser
from tests.ui.demo import Demo
from tests.ui.waiting import until

GROUPS = ["shop", "kafka", "landing", "history", "marts", "outputs"]
ORDERS = '+key:"orders_with_discount"+'  # all that it is made from, and all that is made from it
WIDE = (2200, 800)  # at which the graph has room for whole names

_COLUMNS = """
query ($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { metadataEntries {
    ... on TableColumnLineageMetadataEntry {
      lineage { columnName columnDeps { assetKey { path } columnName } }
    }
  } } }
}"""


def test_the_lineage_page_leads_from_the_shop_to_what_leaves(browser: Browser) -> None:
    browser.open("/", "Timeline")
    browser.click("//*[text()='Lineage']")
    browser.wait_for("Global asset lineage")
    until(
        lambda: _names(browser) == GROUPS, lambda: f"six groups in the order of the flow: {_names(browser)}"
    )


def test_orders_can_be_followed_through_every_layer(browser: Browser, picture: Callable[[str], None]) -> None:
    browser.resize(*WIDE)
    browser.open("/", "Timeline")
    browser.remember("dagster-nav-collapsed", True)
    browser.open(f"/asset-groups~({quote(ORDERS, safe='')})", *GROUPS)
    browser.click("//button[.//*[@aria-label='panel_show_right']]")
    browser.press_alt("e")  # opens all groups
    way = ["orders"] * 4 + [
        "orders_with_discount",
        "order_value_by_discount_day",
        "avg_order_value_by_discount",
        "marts_duckdb",
    ]
    until(
        lambda: [name for name in _names(browser) if name in way] == way,
        lambda: f"the way of the orders: {_names(browser)}",
    )
    boxes = browser.boxes()
    steps = [box for box in boxes if box.name in way]
    assert all(one.right < following.left for one, following in pairwise(steps))
    groups = [box for box in boxes if box.name in GROUPS]
    assert [group.name for group in groups] == GROUPS
    for group, step in zip(groups, steps[:5], strict=False):
        assert group.left <= step.left < step.right <= group.right
    picture("lineage.png")


def test_the_page_tells_where_the_columns_of_an_order_come_from(browser: Browser) -> None:
    # Dagster draws the lineage of columns in its paid version only: here it is told in words.
    page = browser.open("/assets/orders_with_discount", "Columns", "as the shop stores it, negative")
    assert "history.users.practitioner_discount" in page


def test_the_discount_of_an_order_comes_from_the_shops_users(demo: Demo) -> None:
    sources = {("orders_with_discount", "discount")}
    for _ in ("history", "cdc", "kafka", "shop"):
        sources = {deeper for asset, column in sources for deeper in _sources(demo, asset, column)}
    assert ("shop/users", "practitioner_discount") in sources
    assert {asset.split("/")[0] for asset, _ in sources} == {"shop"}


def _names(browser: Browser) -> list[str]:
    return [box.name for box in browser.boxes()]


def _sources(demo: Demo, asset: str, column: str) -> set[tuple[str, str]]:
    """Return the assets and columns that a column of an asset is made of."""
    entries = demo.graphql(_COLUMNS, asset={"path": asset.split("/")})["assetNodeOrError"]["metadataEntries"]
    (lineage,) = [entry["lineage"] for entry in entries if entry]
    return {
        ("/".join(dep["assetKey"]["path"]), dep["columnName"])
        for found in lineage
        if found["columnName"] == column
        for dep in found["columnDeps"]
    }
