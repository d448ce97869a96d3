"""The running shop: people, database, connector and broker in one process and one thread.

The parent reads JSON lines on stdout: `ready` with the broker's address, `opened` with the day
of the shop's first order, `history` about twice a second while the past is replayed, `live` once
it has landed, `stopped`.
"""

import fcntl
import json
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

from shop import truths
from shop.behaviour import OPENING_DAYS, Behaviour
from shop.broker import EmbeddedBroker
from shop.change import Transaction
from shop.connector import Connector
from shop.store import SqliteShop
from shop.world import World

_DATABASE_FILE = "shop.sqlite"
_ENOUGH_WAITING = 5_000
"""Row changes in the binlog, not in Kafka yet, beyond which the history may wait."""
_PAST_AT_ONCE = 500
"""Transactions of the past that are committed together."""
_CONFIRM_SECONDS = 0.1
_REPORT_SECONDS = 0.5
_HEARTBEAT_SECONDS = 5.0
_IDLE_SECONDS = 0.02


class CannotServe(Exception):
    """The shop can't do its work here; the message says why, for people."""


@dataclass(frozen=True)
class Options:
    """What `python -m shop serve` was asked for.

    `pace` makes the live shop faster; `with_parent` ends it with the process that
    started it.
    """

    data_dir: Path
    seed: int = 7
    history_days: int = 900
    group: str = "pharmacy-bi"
    pace: float = 1.0
    live: bool = True
    port_file: Path | None = None
    with_parent: bool = False


def serve(options: Options, stop: Event) -> None:
    """Run the shop until `stop` is set; raise CannotServe where the disk does not allow it."""
    try:
        with ExitStack() as stack:
            stack.enter_context(_alone_in(options.data_dir))
            broker = stack.enter_context(EmbeddedBroker())
            if options.port_file is not None:
                _write_at_once(options.port_file, broker.bootstrap_servers)
            _say("ready", bootstrap_servers=broker.bootstrap_servers)
            shop = SqliteShop(options.data_dir / _DATABASE_FILE)
            stack.callback(shop.close)
            keeper = _Shopkeeper(options, shop, broker)
            stack.callback(keeper.connector.close)
            _say("opened", first_date=keeper.first_date)
            keeper.work(stop)
    except (OSError, sqlite3.Error) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise CannotServe(f"the shop can't work in {options.data_dir}: {error}") from error
    _say("stopped")


class _Shopkeeper:
    """Decides what comes next: a day of the past, a live moment, producing, confirming."""

    def __init__(self, options: Options, shop: SqliteShop, broker: EmbeddedBroker) -> None:
        self._options = options
        self._shop = shop
        diary = shop.note("diary") or self._open()
        self._seed: int = diary["seed"]
        self._start = datetime.fromisoformat(diary["start"])
        self._clock = datetime.fromisoformat(diary["clock"])
        self._is_live: bool = diary["is_live"]
        world = World.load(self._seed, shop, self._clock)
        self._behaviour = Behaviour(self._seed, world, self._clock)
        self.connector = Connector(shop, broker, options.group, self._start)
        self._moments = Random()

    def work(self, stop: Event) -> None:
        """Go on until told to stop."""
        parent = os.getppid()
        confirm_at = report_at = heartbeat_at = next_moment_at = 0.0
        has_reported_live = was_caught_up = False
        while not stop.is_set() and not (self._options.with_parent and os.getppid() != parent):
            now = time.monotonic()
            busy = False
            if not self._is_live:
                if self.connector.waiting < _ENOUGH_WAITING:
                    self._live_through_days()
                    busy = True
            elif self._options.live and now >= next_moment_at:
                # The first moment of a start comes after a pause as well.
                if next_moment_at:
                    self._live_a_moment()
                pause = self._moments.uniform(*truths.LIVE_SECONDS)
                next_moment_at = now + pause / self._options.pace
            busy = self.connector.pump() > 0 or busy
            if now >= confirm_at:
                self.connector.confirm()
                confirm_at = now + _CONFIRM_SECONDS
            caught_up = self._is_live and not self.connector.waiting
            if now >= heartbeat_at or (caught_up and not was_caught_up):
                self._beat(caught_up)
                heartbeat_at = now + _HEARTBEAT_SECONDS
            was_caught_up = was_caught_up or caught_up
            if not has_reported_live and now >= report_at:
                self._report()
                report_at = now + _REPORT_SECONDS
            if not has_reported_live and caught_up and self._all_landed:
                self._report()
                _say("live")
                has_reported_live = True
            if not busy:
                stop.wait(_IDLE_SECONDS)

    @property
    def first_date(self) -> str:
        """The day that the shop opened."""
        return str((self._start - timedelta(days=OPENING_DAYS)).date())

    @property
    def _all_landed(self) -> bool:
        return self.connector.landed == self._shop.changes

    def _open(self) -> dict[str, Any]:
        """Open a new shop; return its diary."""
        midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        start = (midnight - timedelta(days=self._options.history_days)).isoformat()
        diary = {"seed": self._options.seed, "start": start, "clock": start, "is_live": False}
        behaviour = Behaviour(self._options.seed)
        opening = behaviour.opening(datetime.fromisoformat(start))
        self._shop.apply(opening, {"diary": diary, **behaviour.world.notes()})
        return diary

    def _live_through_days(self) -> None:
        """Commit some days of the past, or up to this moment of today; then the shop is live."""
        happened: list[Transaction] = []
        while len(happened) < _PAST_AT_ONCE and not self._is_live:
            now = datetime.now(UTC)
            today = self._clock.date()
            happened += self._behaviour.day(today, now)
            midnight = datetime.combine(today + timedelta(days=1), datetime.min.time(), UTC)
            self._clock = min(midnight, now)
            self._is_live = self._clock == now
        self._shop.apply(happened, self._notes())

    def _live_a_moment(self) -> None:
        self._clock = max(datetime.now(UTC), self._clock)
        self._shop.apply([self._behaviour.live(self._clock)], self._notes())

    def _notes(self) -> dict[str, Any]:
        diary = {
            "seed": self._seed,
            "start": self._start.isoformat(),
            "clock": self._clock.isoformat(),
            "is_live": self._is_live,
        }
        return {"diary": diary, **self._behaviour.world.notes()}

    def _beat(self, caught_up: bool) -> None:
        """Send a heartbeat; while changes wait, it must not claim more than what was sent."""
        until = time.time_ns() // 1_000_000 if caught_up else self.connector.produced_until_ms
        if until is not None:
            self.connector.heartbeat(until)

    def _report(self) -> None:
        """Tell the parent how far the history is; what is still to be lived is estimated."""
        total = float(self._shop.changes)
        if not self._is_live:
            days = (datetime.now(UTC) - self._clock) / timedelta(days=1)
            middle = (self._clock - self._start) / timedelta(days=1) + days / 2
            patients = truths.PATIENTS_AT_OPENING + truths.REGISTRATIONS_PER_DAY * middle
            total += days * patients * truths.CHANGES_PER_PATIENT_DAY
        _say(
            "history",
            produced=self.connector.produced,
            total=round(total),
            landed=self.connector.landed,
        )


@contextmanager
def _alone_in(data_dir: Path) -> Iterator[None]:
    """Hold the folder: two shops in one would write one binlog."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with (data_dir / "shop.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotServe(f"another shop is at work in {data_dir}") from None
        yield


def _write_at_once(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


def _say(event: str, **details: Any) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


def run(options: Options) -> int:
    """Serve until SIGINT or SIGTERM; return the exit code."""
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve(options, stop)
    except CannotServe as error:
        print(f"shop: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Nobody listens any more; Python must not try to flush stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
