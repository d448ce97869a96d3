"""From the shop's table to the analysts' file: what the graph shows, and where a column comes from."""

from collections.abc import Callable
from urllib.parse import quote

from tests.ui.browser import Browser
from tests.ui.demo import Demo
from tests.ui.waiting import until

GROUPS = ["shop", "kafka", "landing", "history", "marts", "outputs"]
WIDE = (2300, 860)  # at which the graph has room for whole names

_COLUMNS = """
query ($asset: AssetKeyInput!) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode { metadataEntries {
    ... on TableColumnLineageMetadataEntry {
      lineage { columnName columnDeps { assetKey { path } columnName } }
    }
  } } }
}"""


def path_of_orders() -> str:
    """Return the page of all that orders_with_discount is made from and for, its groups open."""
    selection = quote('+key:"orders_with_discount"+', safe="")
    opened = quote(",".join(f"global@global:{group}" for group in GROUPS))
    return f"/asset-groups~({selection})?expanded={opened}"


def test_the_lineage_page_leads_from_the_shop_to_what_leaves(browser: Browser) -> None:
    browser.open("/", "Timeline")
    browser.click("//*[text()='Lineage']")
    browser.wait_for("Global asset lineage")

    def groups() -> list[str]:
        return [box.name for box in sorted(browser.boxes(), key=lambda box: box.left)]

    until(lambda: groups() == GROUPS, lambda: f"six groups, in the order of the flow: {groups()}")


def test_orders_can_be_followed_through_every_layer(browser: Browser, picture: Callable[[str], None]) -> None:
    browser.resize(*WIDE)
    browser.open("/", "Timeline")
    browser.remember("dagster-nav-collapsed", True)
    browser.open(path_of_orders(), "marts_duckdb")
    browser.click("//button[.//*[@aria-label='panel_show_right']]")
    way = ["orders"] * 4 + [
        "orders_with_discount",
        "order_value_by_discount_day",
        "avg_order_value_by_discount",
        "marts_duckdb",
    ]

    def lefts() -> list[float]:
        """Return how far right each step of the way is; those of the same name in drawn order."""
        found = sorted(browser.boxes(), key=lambda box: box.left)
        return [box.left for box in found if box.name in way]

    def names() -> list[str]:
        return [box.name for box in sorted(browser.boxes(), key=lambda box: box.left)]

    until(lambda: [n for n in names() if n in way] == way, lambda: f"the way of the orders: {names()}")
    assert lefts() == sorted(set(lefts()))
    assert [name for name in names() if name in GROUPS] == GROUPS
    boxes = browser.boxes()
    groups = [next(box for box in boxes if box.name == name) for name in GROUPS]
    orders = sorted((box for box in boxes if box.name == "orders"), key=lambda box: box.left)
    for group, following, order in zip(groups, groups[1:], orders, strict=False):
        assert group.left <= order.left < order.right <= following.left
    picture("lineage.png")


def test_the_discount_of_an_order_comes_from_the_shops_users(demo: Demo, browser: Browser) -> None:
    # Dagster draws columns' lineage in its paid version only; the free one shows the columns.
    page = browser.open(
        "/assets/orders_with_discount", "Columns", "discount at that moment as the shop stores it"
    )
    assert "discount_pct" in page
    sources = {("orders_with_discount", "discount")}
    for _ in ("history", "cdc", "kafka", "shop"):
        sources = {deeper for asset, column in sources for deeper in _sources(demo, asset, column)}
    assert ("shop/users", "practitioner_discount") in sources
    assert {asset.split("/")[0] for asset, _ in sources} == {"shop"}


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
