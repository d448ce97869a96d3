"""The one sensor: news in Kafka launches a micro-batch run.

Dagster's daemon evaluates a sensor every five seconds at best, so an evaluation waits for news
for almost as long, and returns the moment there is some. While a run is queued or running there
is nothing to do but wait for its end: it lands the news itself.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from confluent_kafka import KafkaException
from dagster import DagsterRunStatus

from bi_assets.errors import UserError
from bi_assets.landing.kafka import KafkaSource
from bi_assets.landing.offsets import landed_offsets, progress
from bi_assets.orchestration.jobs import MICRO_BATCH
from bi_assets.warehouse import Warehouse

_WAIT_SECONDS = 4.4
_LOOK_EVERY_SECONDS = 0.2
_HEARTBEATS_MATTER_AFTER = timedelta(minutes=5)
_UNDER_WAY = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]


def kafka_cdc(warehouse: Warehouse) -> dg.SensorDefinition:
    """Return the sensor of this warehouse."""

    @dg.sensor(
        name="kafka_cdc",
        job_name=MICRO_BATCH,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Launches a micro-batch run when Kafka holds something that has not landed.",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        deadline = time.monotonic() + _WAIT_SECONDS
        if not _wait_for_run(context.instance, deadline):
            return dg.SkipReason("a micro-batch run is under way")
        try:
            return _wait_for_news(warehouse, deadline)
        except (UserError, KafkaException) as error:
            return dg.SkipReason(f"{error} Trying again.")

    return sensor


def _wait_for_run(instance: dg.DagsterInstance, deadline: float) -> bool:
    """Wait until no micro-batch run is under way; tell whether that came in time."""
    under_way = dg.RunsFilter(job_name=MICRO_BATCH, statuses=_UNDER_WAY)
    while instance.get_runs_count(under_way):
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_EVERY_SECONDS)
    return True


def _wait_for_news(warehouse: Warehouse, deadline: float) -> dg.RunRequest | dg.SkipReason:
    settings = warehouse.settings
    topics = [settings.heartbeat_topic, *map(settings.topic, warehouse.contracts)]
    with warehouse.open() as con:
        complete_through, landed = progress(con).complete_through, landed_offsets(con)
    with KafkaSource(settings, topics) as source:
        source.connect(landed, fetch=False)
        while True:
            if source.has_news():
                return dg.RunRequest()
            if source.backlog(source.ends) and _old(complete_through):
                return dg.RunRequest()  # heartbeats alone: nothing was ordered, and that is news too
            if time.monotonic() > deadline:
                return dg.SkipReason("no news")
            time.sleep(_LOOK_EVERY_SECONDS)
            source.refresh_ends()


def _old(complete_through: datetime | None) -> bool:
    now = datetime.now(UTC).replace(tzinfo=None)
    return complete_through is None or now - complete_through > _HEARTBEATS_MATTER_AFTER
