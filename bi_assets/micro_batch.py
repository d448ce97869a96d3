"""The loop: land -> history -> refresh -> check -> publish.

`sync` and the Dagster run are the same loop; they differ in when it ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

import duckdb
from confluent_kafka import KafkaException

from bi_assets.errors import UserError
from bi_assets.landing import sweep as sweeping
from bi_assets.landing.batch import Batch
from bi_assets.landing.forms import fetch_schemas
from bi_assets.landing.kafka import KafkaSource
from bi_assets.landing.land import FAULTS_OF_A_MESSAGE, Landed, choking_apart, land
from bi_assets.landing.offsets import Progress, landed_offsets
from bi_assets.landing.offsets import progress as landed_progress
from bi_assets.landing.schema_registry import RegistryAwayError
from bi_assets.outputs.pace import last_publication
from bi_assets.outputs.publish import Published, is_behind, publish
from bi_assets.refresh import refresh
from bi_assets.refresh.mart import Mart
from bi_assets.refresh.refresh import Refreshed
from bi_assets.settings import Settings
from bi_assets.sql import ENVIRONMENT, transaction
from bi_assets.warehouse import Warehouse

log = logging.getLogger(__name__)

_LONGEST_RUN_SECONDS = 60.0
_REFRESH_EVERY_SECONDS = 10.0
_NEW_TOPICS_EVERY_SECONDS = 2.0
_WAIT_SECONDS = 0.5
_GLANCE_SECONDS = 0.02  # when there is other work to do
_SILENCE_SECONDS = 30.0


@dataclass
class Outcome:
    """What a run did: batches landed, marts refreshed (newest last), the last publication.

    `took`: seconds that the steps of the last batch took. What is refreshed is `unpublished` until it
    is time to publish (monotonic time): what takes long is done less often.
    """

    landed: list[Landed] = field(default_factory=list)
    refreshed: list[Refreshed] = field(default_factory=list)
    published: Published | None = None
    took: dict[str, float] = field(default_factory=dict)
    unpublished: bool = False
    publish_at: float = 0.0
    published_progress: Progress | None = None

    @property
    def messages(self) -> int:
        """Messages landed in all."""
        return sum(batch.counts["messages"] for batch in self.landed)


Told = Callable[[int, int], None]
"""Told after each batch: messages landed so far, messages still to come."""
Idle = Callable[[bool], bool]
"""Called when there is nothing to land, and told whether the run is about to end: does a little other
work, tells whether there is more."""


class Pace:
    """Says how far landing is: how many, how fast, how long it will take."""

    def __init__(self) -> None:
        self._started = time.monotonic()

    def tell(self, done: int, left: int) -> str:
        """Return a sentence for so many messages landed, and still to come."""
        rate = done / max(time.monotonic() - self._started, 1e-3)
        rest = f"{left:,} to come, some {left / rate:,.0f} s" if left else "none to come"
        return f"{done:,} landed, {rate:,.0f}/s; {rest}"


def connect(warehouse: Warehouse, source: KafkaSource) -> None:
    """Find the topics, and go on where each has landed."""
    with warehouse.open(evolve=True) as con:
        landed = landed_offsets(con)
    source.connect(landed)


def sync(
    warehouse: Warehouse,
    progress: Told = lambda done, left: None,
    until: Callable[[], bool] = lambda: True,
) -> Outcome:
    """Land everything up to the end offsets of now, refresh every mart, publish.

    More is landed until `until` says true, which is asked each time that all has landed. A transaction that
    its producer has not finished is left for the next time.

    Errors: `UserError` where the broker goes away or something keeps a message from coming, after what
    did come has been published.
    """
    outcome = Outcome()
    failure: UserError | None = None
    try:
        _drain(warehouse, outcome, progress)
        while not until():
            time.sleep(_WAIT_SECONDS)
            _drain(warehouse, outcome, progress)
    except UserError as error:
        if not outcome.landed:
            raise
        failure = error
    with warehouse.open() as con:
        _refresh(con, warehouse, outcome, scheduled=True)
        _publish(con, warehouse, outcome)
    if failure:
        raise failure
    return outcome


def _drain(warehouse: Warehouse, outcome: Outcome, progress: Told) -> None:
    with KafkaSource(warehouse.settings, warehouse.topics) as source, ThreadPoolExecutor(1) as reader:
        connect(warehouse, source)
        ends, answered = source.ends, time.monotonic()
        left = source.backlog(ends)
        ahead = reader.submit(source.read, _WAIT_SECONDS) if left else None
        while ahead:
            batch = ahead.result()
            if not batch and source.topics_changed():
                connect(warehouse, source)
                ends, answered = source.ends, time.monotonic()
            left = source.backlog(ends)
            if not batch and left:
                if hindrance := source.hindrance:
                    raise hindrance
                if time.monotonic() - answered > _SILENCE_SECONDS:
                    raise UserError(
                        f"Kafka has {left} messages more and has sent none for {_SILENCE_SECONDS:.0f} s. "
                        "What had come has landed; run this again."
                    )
            # The next batch is read while this one lands.
            ahead = reader.submit(source.read, _WAIT_SECONDS) if left else None
            if batch:
                fetch_schemas(batch, warehouse.settings)
                with warehouse.open() as con:
                    _land(con, warehouse, batch, outcome)
                source.commit(batch)
                progress(outcome.messages, left)
                answered = time.monotonic()


def linger(warehouse: Warehouse, idle: Idle, progress: Told = lambda done, left: None) -> Outcome:
    """Land what there is, then wait for more; each batch restarts the wait.

    Ends after `BI_LINGER_SECONDS` without news, at the first rest after a minute, or when the
    broker goes away. Where there is much to land, the marts are refreshed every few seconds on the
    way.
    """
    outcome = Outcome()
    try:
        _linger(warehouse, outcome, idle, progress)
    except (KafkaException, UserError) as error:
        log.warning("%s What had come has landed.", error)
        with warehouse.open() as con:
            _refresh(con, warehouse, outcome, scheduled=False)
    # Heartbeats alone: the data is as it was, and complete.
    has_moved = bool(outcome.landed) and outcome.landed[-1].progress != outcome.published_progress
    if outcome.unpublished or has_moved:
        with warehouse.open() as con:
            _publish(con, warehouse, outcome)
    return outcome


def _linger(warehouse: Warehouse, outcome: Outcome, idle: Idle, progress: Told) -> None:
    started = refreshed_at = looked_at = time.monotonic()
    quiet_after = started + warehouse.settings.linger_seconds
    stale = True  # a crash may have left something to refresh
    busy = False
    held: Batch | None = None
    with warehouse.open(evolve=True) as con:
        landed = landed_offsets(con)
        outcome.unpublished = is_behind(con, warehouse.settings)
        last = last_publication(con)
        outcome.publish_at = started + last.due_in if last else started
    with KafkaSource(warehouse.settings, warehouse.topics) as source:
        source.connect(landed)
        while True:
            batch = held or source.read(_GLANCE_SECONDS if stale or busy else _WAIT_SECONDS)
            held = (
                batch if batch and not _has_schemas(batch, warehouse.settings, was_held=bool(held)) else None
            )
            batch = None if held else batch
            if not batch:
                source.refresh_ends()  # `read` has asked where it brought something
            now = time.monotonic()
            is_due = outcome.unpublished and now >= outcome.publish_at
            if batch or stale or is_due:
                with warehouse.open() as con:
                    if batch:
                        stale = bool(_land(con, warehouse, batch, outcome).tables) or stale
                    if stale and (not source.has_news() or now - refreshed_at > _REFRESH_EVERY_SECONDS):
                        _refresh(con, warehouse, outcome, scheduled=False)
                        stale, refreshed_at = False, now
                    if not stale and outcome.unpublished and time.monotonic() >= outcome.publish_at:
                        _publish(con, warehouse, outcome)
            if batch:
                source.commit(batch)
                progress(outcome.messages, source.backlog(source.ends))
                if outcome.landed[-1].tables:
                    quiet_after = time.monotonic() + warehouse.settings.linger_seconds
            if now - looked_at > _NEW_TOPICS_EVERY_SECONDS:
                looked_at = now
                if source.topics_changed():
                    connect(warehouse, source)
            if not stale and not held and not source.has_news():
                is_ending = now > quiet_after
                busy = idle(is_ending)
                if is_ending and not busy and not outcome.unpublished:
                    break
            if not stale and now - started > _LONGEST_RUN_SECONDS:
                break
        if source.hindrance:
            log.warning("%s", source.hindrance)


def _has_schemas(batch: Batch, settings: Settings, *, was_held: bool) -> bool:
    """Tell whether a batch can be read; where the schema registry is away, say so once, and rest."""
    try:
        fetch_schemas(batch, settings)
    except RegistryAwayError as error:
        if not was_held:
            log.warning("%s", error)
        time.sleep(_WAIT_SECONDS)
        return False
    return True


def _land(con: duckdb.DuckDBPyConnection, warehouse: Warehouse, batch: Batch, outcome: Outcome) -> Landed:
    with _timed(outcome, "land"):
        try:
            with transaction(con):
                landed = land(con, batch, warehouse.contracts, warehouse.settings)
        except ENVIRONMENT:
            raise
        except FAULTS_OF_A_MESSAGE:
            apart = choking_apart(con, batch, warehouse.contracts, warehouse.settings)
            if apart is None:
                raise
            with transaction(con):
                landed = land(con, apart, warehouse.contracts, warehouse.settings)
    outcome.landed.append(landed)
    return landed


def _refresh(
    con: duckdb.DuckDBPyConnection, warehouse: Warehouse, outcome: Outcome, *, scheduled: bool
) -> None:
    """Refresh what has been touched."""
    with _timed(outcome, "refresh"):
        refreshed = refresh.refresh(con, warehouse.marts, scheduled=scheduled)
    outcome.refreshed += refreshed
    outcome.unpublished |= bool(refreshed)


def _publish(con: duckdb.DuckDBPyConnection, warehouse: Warehouse, outcome: Outcome) -> None:
    with _timed(outcome, "publish"):
        outcome.published = publish(con, warehouse.marts, warehouse.settings)
    outcome.unpublished = False
    outcome.publish_at = time.monotonic() + outcome.published.pause
    outcome.published_progress = landed_progress(con)


@contextmanager
def _timed(outcome: Outcome, step: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    outcome.took[step] = time.monotonic() - started


def sweep(warehouse: Warehouse, table: str, *, apply: bool) -> sweeping.Vanished | None:
    """Return the rows of a table that its newest snapshot no longer holds; with `apply` delete them.

    None where there is no snapshot to ask. Errors: `UserError` for an unknown table, or where there is
    nothing to apply.
    """
    contract, settings = warehouse.contracts.get(table), warehouse.settings
    if contract is None:
        raise UserError(f"There is no table {table!r}; there are {', '.join(warehouse.contracts)}.")
    with warehouse.open(evolve=apply) as con:
        if not apply:
            return sweeping.vanished(con, contract, settings.topic(table))
        with transaction(con):
            swept = sweeping.apply(con, contract, frozenset(warehouse.contracts), settings)
        refresh.refresh(con, warehouse.marts, scheduled=True)
        publish(con, warehouse.marts, settings)
    return swept


def recompute(warehouse: Warehouse, mart: Mart, days: Sequence[date] | None) -> Refreshed:
    """Compute a mart again for these partitions, or as a whole, and publish."""
    with warehouse.open(evolve=True) as con:
        with transaction(con):
            refreshed = refresh.recompute(con, mart, days)
        publish(con, warehouse.marts, warehouse.settings)
    return refreshed
