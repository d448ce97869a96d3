"""A person's browser: Chromium without a window, and what a person sees and is told in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.ui.waiting import until

_ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",  # needed where the tests run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SIZE = (1600, 1000)
"""Width and height of the page, in CSS pixels, unless a test sets others."""

# Groups and assets of the graph; the first line of their text is the name, or comes after a badge.
_BOXES = """
return [...document.querySelectorAll('svg foreignObject')].map(box => {
  const lines = (box.querySelector('div')?.innerText ?? '').split('\\n').map(line => line.trim())
  const {left, right, top, bottom} = box.getBoundingClientRect()
  return [lines.find(line => line && !line.startsWith('Unsynced')), left, right, top, bottom]
}).filter(box => box[0])"""

_IS_AT_REST = """
const pictures = performance.getEntriesByType('resource')
  .filter(entry => ['css', 'img'].includes(entry.initiatorType))
const last = Math.max(0, ...pictures.map(entry => entry.responseEnd))
return !/Loading|Unsynced/.test(document.body.innerText) && performance.now() - last > 1500"""


class Box(NamedTuple):
    """A group or an asset as the graph draws it, in CSS pixels of the window."""

    name: str
    left: float
    right: float
    top: float
    bottom: float


class Browser:
    """Shows the pages of one site."""

    def __init__(self, site: str, profile: Path) -> None:
        self.site = site
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))

    def resize(self, width: int, height: int) -> None:
        """Set the size of the page, in CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)

    def open(self, path: str, *texts: str) -> str:
        """Open a page, wait until all these texts are on it, return its whole text."""
        self._driver.get(self.site + path)
        return self.wait_for(*texts)

    def wait_for(self, *texts: str) -> str:
        """Wait until all these texts are on the page; return its whole text."""

        def missing() -> list[str]:
            page = self.text()
            return [text for text in texts if text not in page]

        until(lambda: not missing(), lambda: f"{missing()} on {self._driver.current_url}:\n{self.text()}")
        return self.text()

    def text(self) -> str:
        """Return the text that a person can read on the page."""
        return str(self._driver.execute_script("return document.body ? document.body.innerText : ''"))

    def click(self, xpath: str) -> None:
        """Click the first visible element that the XPath finds, once there is one."""

        def visible() -> list[WebElement]:
            return [e for e in self._driver.find_elements(By.XPATH, xpath) if e.is_displayed()]

        until(visible, f"something to click at {xpath}")[0].click()

    def press_alt(self, key: str) -> None:
        """Press a key together with Alt: the site's shortcuts."""
        ActionChains(self._driver).key_down(Keys.ALT).send_keys(key).key_up(Keys.ALT).perform()

    def boxes(self) -> list[Box]:
        """Return the groups and assets that the lineage graph shows, from left to right."""
        found = [Box(*box) for box in self._driver.execute_script(_BOXES)]
        return sorted(found, key=lambda box: box.left)

    def remember(self, setting: str, value: object) -> None:
        """Set one of the preferences that the site keeps in the browser."""
        self._driver.execute_script(
            "localStorage.setItem(arguments[0], arguments[1])", setting, json.dumps(value)
        )

    def forget(self) -> None:
        """Drop all such preferences."""
        self._driver.execute_script("localStorage.clear()")

    def shoot(self, file: Path) -> None:
        """Save a picture of the window, PNG, once all of it is there and between two runs' reports."""
        until(lambda: self._driver.execute_script(_IS_AT_REST), "a page at rest", seconds=150)
        assert self._driver.save_screenshot(str(file))

    def complaints(self) -> list[str]:
        """Return the errors on the console, and requests to any other site, since the last call."""
        errors = [log["message"] for log in self._log("browser") if log["level"] == "SEVERE"]
        return errors + [f"asks {url}" for url in self._requests() if not self._is_own(url)]

    def close(self) -> None:
        """Close the window and end the browser."""
        self._driver.quit()

    def _log(self, kind: str) -> list[dict[str, str]]:
        """Return what a log has got since the last call."""
        return list(self._driver.get_log(kind))  # type: ignore[no-untyped-call]

    def _requests(self) -> list[str]:
        messages = [json.loads(log["message"])["message"] for log in self._log("performance")]
        asked = [m["params"] for m in messages if m["method"] in
                 ("Network.requestWillBeSent", "Network.webSocketCreated")]  # fmt: skip
        return [p["url"] if "url" in p else p["request"]["url"] for p in asked]

    def _is_own(self, url: str) -> bool:
        scheme, _, rest = url.partition("://")
        return scheme not in ("http", "https", "ws", "wss") or rest.startswith(self.site.partition("://")[2])
