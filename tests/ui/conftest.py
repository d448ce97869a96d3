"""One platform and one browser for all these tests: starting them takes most of the time."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ui.browser import SIZE, Browser
from tests.ui.demo import Demo

_IMAGES = Path(__file__).parents[2] / "docs" / "images"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder as one of the browser."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.ui)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Run the platform until all tests are done; stopping it is the last test."""
    running = Demo(tmp_path_factory.mktemp("demo") / "data")
    try:
        running.wait_until_there_is_something_to_see()
    except BaseException:
        running.kill()
        raise
    yield running
    running.stop()


@pytest.fixture(scope="session")
def chromium(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run the browser."""
    browser = Browser(demo.url, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """Lend the browser to a test, after which it must have nothing to complain of."""
    chromium.resize(*SIZE)
    yield chromium
    chromium.forget()
    assert chromium.complaints() == []


@pytest.fixture
def picture(chromium: Browser) -> Callable[[str], None]:
    """Return what saves the page as a picture of the docs where UPDATE_SCREENSHOTS=1 asks for it."""

    def save(name: str) -> None:
        if os.environ.get("UPDATE_SCREENSHOTS") == "1":
            chromium.shoot(_IMAGES / name)

    return save
