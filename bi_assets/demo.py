"""The platform with a simulated shop in front of it, in one terminal."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import threading
import time

from bi_assets.errors import UserError
from bi_assets.outputs.preview import first_results
from bi_assets.running import Process, check_port, start, start_dagster, stop, wait
from bi_assets.settings import DEMO_FILE, Settings, read_env_file
from bi_assets.terminal import console, print_table

# What points at somebody's own shop does not hold for the simulated one.
_OF_AN_OWN_SHOP = ("KAFKA_BOOTSTRAP_SERVERS", "KAFKA_CONFIG", "BI_TOPIC_PREFIX", "BI_SOURCE_TIMEZONE")
_TELL_EVERY_SECONDS = 2.0


def demo(port: int, history_days: int) -> int:
    """Run the simulated shop, its broker and Dagster until Ctrl-C. Returns the exit code."""
    given = {**read_env_file(), **os.environ}
    environment = {name: value for name, value in given.items() if name not in _OF_AN_OWN_SHOP}
    settings = Settings.from_environment(environment)
    environment["BI_DATA_DIR"] = str(settings.data_dir.resolve())
    check_port(port)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    shop = start(
        ["shop", "serve", "--with-parent", "--history-days", str(history_days),
         "--data-dir", str(settings.data_dir.resolve() / "shop")],
        environment, output=subprocess.PIPE,
    )  # fmt: skip
    try:
        address, first_date = _opened(shop)
        console.print(f"Shop and Kafka broker: {address}")
        _remember(settings, address, first_date)
        dagster = start_dagster(settings, port, environment)
    except BaseException:
        stop([shop])
        raise
    landing = _Landing(settings, environment)
    landing.start()
    threading.Thread(target=_tell, args=(shop, settings, landing), daemon=True).start()
    # Stopped in this order: whoever reads before whoever is read.
    return wait([dagster, shop], first=landing.end)


class _Landing(threading.Thread):
    """Lands the shop's history while Dagster is still starting, and shows the first results."""

    def __init__(self, settings: Settings, environment: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self._settings = settings
        self._environment = environment
        self._ended = threading.Event()
        self._sync: Process | None = None

    def run(self) -> None:
        """Sync again and again, until told that the shop is live."""
        shown = False
        while not self._ended.is_set():
            self._sync = start(
                ["bi_assets", "sync", "--json"],
                self._environment,
                folder=self._settings.data_dir,
                output=subprocess.DEVNULL,
            )
            if self._sync.wait() or self._ended.is_set():
                return  # it has said why; Dagster goes on
            shown = shown or show_results(self._settings)

    def end(self) -> None:
        """Sync no more. The one that is under way is killed, which does no harm and says nothing."""
        self._ended.set()
        if self._sync:
            self._sync.kill()
            self._sync.wait()


def show_results(settings: Settings) -> bool:
    """Print the result table, if there is one; tell whether there is."""
    found = first_results(settings.published_file)
    for preview in found:
        print_table(preview.title, preview.columns, preview.rows)
    return bool(found)


def _remember(settings: Settings, address: str, first_date: str) -> None:
    """Write what other commands need to find this demo: its broker, its key, its first partition.

    The key for pseudonyms is made at the first start, and kept private.
    """
    file = settings.data_dir / DEMO_FILE
    known = {"BI_PSEUDONYM_KEY": secrets.token_hex(32), "BI_FIRST_DATE": first_date, **read_env_file(file)}
    known["KAFKA_BOOTSTRAP_SERVERS"] = address
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in known.items()))


def _opened(shop: Process) -> tuple[str, str]:
    """Wait until the shop is open; return its broker's address and the day of its first order."""
    assert shop.stdout
    address = ""
    for line in shop.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            address = event["bootstrap_servers"]
        elif event["event"] == "opened":
            return address, event["first_date"]
    raise UserError("The simulated shop did not start; the line above says why.")


def _tell(shop: Process, settings: Settings, landing: _Landing) -> None:
    """Print how the shop's history loads, then that it is live."""
    assert shop.stdout
    told, landed = time.monotonic(), 0
    for line in shop.stdout:
        event = json.loads(line)
        is_time = time.monotonic() - told > _TELL_EVERY_SECONDS
        if event["event"] == "history" and is_time and event["landed"] != landed:
            told, landed = time.monotonic(), event["landed"]
            console.print(f"shop: {landed:,} of some {event['total']:,} changes of its history have landed")
        elif event["event"] == "live":
            landing.end()
            console.print("shop: its history has landed; from now on it changes live")
            show_results(settings)
