"""The first look at the platform."""

from tests.ui import processes
from tests.ui.browser import Browser
from tests.ui.demo import Demo

_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries {
  loadStatus locationOrLoadError { __typename }
} } } }"""
_UNHEALTHY = "{ instance { daemonHealth { allDaemonStatuses { daemonType healthy required } } } }"


def test_it_opens_without_an_error_and_without_a_word_to_anyone_else(browser: Browser) -> None:
    page = browser.open("/", "Timeline", "micro_batch")
    assert "Join the Dagster community" not in page  # a dialog over everything
    assert browser.complaints() == []


def test_the_code_location_is_loaded(demo: Demo, browser: Browser) -> None:
    (entry,) = demo.graphql(_LOCATIONS)["workspaceOrError"]["locationEntries"]
    assert entry == {
        "loadStatus": "LOADED",
        "locationOrLoadError": {"__typename": "RepositoryLocation"},
    }
    browser.open("/locations", "bi_assets", "Loaded")


def test_every_daemon_that_is_needed_is_alive(demo: Demo) -> None:
    statuses = demo.graphql(_UNHEALTHY)["instance"]["daemonHealth"]["allDaemonStatuses"]
    assert [s["daemonType"] for s in statuses if s["required"] and not s["healthy"]] == []


def test_nothing_listens_on_any_address_but_loopback(demo: Demo) -> None:
    found = processes.listening(demo.processes())
    assert demo.port in {port for _, port in found}
    assert {address for address, _ in found if not address.is_loopback} == set()
