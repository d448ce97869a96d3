"""The one sensor: news in Kafka launches a micro-batch run.

Dagster's daemon evaluates a sensor every five seconds at best, so an evaluation waits for news, and
returns the moment there is some. It waits long: between two evaluations nobody does. While a run is
queued or running there is nothing to do but wait for its end: it lands the news itself.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from confluent_kafka import KafkaException
from dagster import DagsterRunStatus

from bi_assets.errors import UserError
from bi_assets.landing.kafka import KafkaSource
from bi_assets.landing.kafka_client import Refused
from bi_assets.landing.offsets import landed_offsets, progress
from bi_assets.orchestration.jobs import MICRO_BATCH
from bi_assets.warehouse import Warehouse

log = logging.getLogger(__name__)

_WAIT_SECONDS = 25.0  # Dagster gives an evaluation a minute
_LOOK_EVERY_SECONDS = 0.2
_NEW_TOPICS_EVERY_SECONDS = 5.0
_HEARTBEATS_MATTER_AFTER = timedelta(minutes=5)
_PATIENCE_SECONDS = 10.0
_AHEAD_KBYTES = 64  # one message is enough
_UNDER_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def kafka_cdc(warehouse: Warehouse) -> dg.SensorDefinition:
    """Return the sensor of this warehouse."""
    watch = _Watch(warehouse)

    @dg.sensor(
        name="kafka_cdc",
        job_name=MICRO_BATCH,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Launches a micro-batch run when Kafka holds something that has not landed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        deadline = time.monotonic() + _WAIT_SECONDS
        if _is_under_way(context.instance):
            watch.rest()
            while _is_under_way(context.instance):
                if time.monotonic() > deadline:
                    return dg.SkipReason("a micro-batch run is under way")
                time.sleep(_LOOK_EVERY_SECONDS)
        try:
            if watch.sees_news(deadline):
                return dg.RunRequest()
        except (UserError, KafkaException) as error:
            return dg.SkipReason(watch.give_up(error))
        return dg.SkipReason(f"no news. {watch.hindrance}" if watch.hindrance else "no news")

    return sensor


def _is_under_way(instance: dg.DagsterInstance) -> bool:
    return instance.get_runs_count(dg.RunsFilter(job_name=MICRO_BATCH, statuses=_UNDER_WAY)) > 0


class _Watch:
    """Waits at the topics for what has not landed; keeps its place from one evaluation to the next."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._source: KafkaSource | None = None
        self._complete_through: datetime | None = None
        self._trouble: Exception | None = None
        self._trouble_since = datetime.now(UTC)
        self._tries = 0
        self.hindrance: Refused | None = None
        """Why some topic can't be read, though others can."""
        self._lock = threading.Lock()  # evaluations come on different threads

    def sees_news(self, deadline: float) -> bool:
        """Wait until there is news; False where there was none until the deadline (monotonic time).

        Errors: `UserError` or `KafkaException` where the broker does not answer or refuses us.
        """
        with self._lock:
            source = self._source or self._connected(deadline)
            while (left := deadline - time.monotonic()) > 0:
                topic = source.wait(min(left, _NEW_TOPICS_EVERY_SECONDS))
                self.hindrance = source.hindrance
                if topic is None:
                    if source.topics_changed():
                        source = self._connected(deadline)
                elif source.is_news(topic) or _old(self._complete_through):
                    # Heartbeats alone matter too, sometimes: nothing was ordered, and that is news.
                    self._close()
                    return True
            return False

    def rest(self) -> None:
        """Go away until there is something to wait for."""
        with self._lock:
            self._close()

    def give_up(self, error: Exception) -> str:
        """Go away until the next evaluation; return why. The log is told once, not each time."""
        with self._lock:
            self._close()
            self._tries += 1
            if type(self._trouble) is not type(error):
                log.warning("%s", error)
                self._trouble_since = datetime.now(UTC)
            self._trouble = error
        return f"{error} So it is since {self._trouble_since:%Y-%m-%d %H:%M} UTC; trying again."

    def _connected(self, deadline: float) -> KafkaSource:
        self._close()
        if isinstance(self._trouble, Refused):
            # Whoever mends a login has time; whoever tries it every few seconds may be locked out.
            time.sleep(min(2.0**self._tries, max(0.0, deadline - time.monotonic())))
        with self._warehouse.open() as con:
            self._complete_through, landed = progress(con).complete_through, landed_offsets(con)
        self._source = KafkaSource(
            self._warehouse.settings, self._warehouse.topics, ahead_kbytes=_AHEAD_KBYTES
        )
        # A broker that is away is waited for in here, so that its return is noticed at once.
        patience = deadline - time.monotonic() if self._trouble else _PATIENCE_SECONDS
        self._source.connect(landed, patience=max(patience, 1.0))
        if self._trouble:
            log.warning("Kafka answers again.")
        self._trouble, self._tries = None, 0
        return self._source

    def _close(self) -> None:
        if self._source:
            self._source.close()
            self._source = None


def _old(complete_through: datetime | None) -> bool:
    now = datetime.now(UTC).replace(tzinfo=None)
    return complete_through is None or now - complete_through > _HEARTBEATS_MATTER_AFTER
