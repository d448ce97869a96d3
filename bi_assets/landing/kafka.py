"""Kafka to batches: explicit offsets, no group subscription, nothing skipped in silence.

The landed offsets come from the warehouse. Where the broker no longer has them, the hole is
reported as a loss; the client's automatic reset is off.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from types import TracebackType

import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec

from bi_assets.errors import UserError
from bi_assets.landing import rekeyed
from bi_assets.landing.batch import MESSAGE_SCHEMA, Batch, Loss, Partition, Restart
from bi_assets.settings import CONSUMER_GROUP, Settings, read_properties

log = logging.getLogger(__name__)
# Arrow's own pool hands each batch's memory back and takes it anew, page by page.
pa.set_memory_pool(pa.system_memory_pool())

BATCH_MESSAGES = 150_000
_BATCH_BYTES = 48 << 20
_AT_ONCE = 5_000  # Python objects alive at a time
_ANSWER_SECONDS = 10.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_REST_SECONDS = 0.01  # what else has arrived by then goes into the same batch

LandedOffsets = Mapping[Partition, int]
"""The offset to read next, of each partition of any cluster that has landed anything."""


def client_config(settings: Settings) -> dict[str, str | int | bool]:
    """Return the connection's settings, `KAFKA_CONFIG` included."""
    extra = read_properties(settings.kafka_config) if settings.kafka_config else {}
    return {"bootstrap.servers": settings.bootstrap_servers, **extra}


class KafkaSource:
    """The topics of the source tables, from where they have landed.

    Use it as a context manager; call `connect` before anything else. Not thread-safe.
    """

    def __init__(self, settings: Settings, topics: Collection[str], *, ahead_kbytes: int = 32_768) -> None:
        """`ahead_kbytes` bounds what is fetched before it is asked for."""
        self._topics = frozenset(topics)
        self._silent = frozenset({settings.heartbeat_topic, settings.transaction_topic})
        self._address = settings.bootstrap_servers
        config = client_config(settings)
        self._consumer = Consumer(
            {
                "group.id": CONSUMER_GROUP,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": 5,  # the default of 1000 leaves the client waiting
                "queued.max.messages.kbytes": ahead_kbytes,
                "fetch.wait.max.ms": 100,  # not every broker answers earlier when something comes
                "log_level": 2,
                **config,
            },
            logger=log,
        )
        self._admin = AdminClient({"log_level": 2, **config}, logger=log)
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._next: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._is_cut_short = False
        self._losses: list[Loss] = []
        self._restarts: list[Restart] = []
        self._links: dict[str, list[rekeyed.Link]] = {}

    def __enter__(self) -> KafkaSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the broker."""
        self._consumer.close()

    def connect(self, landed: LandedOffsets, *, fetch: bool = True) -> None:
        """Find the topics' partitions and go on where each has landed.

        Without `fetch` nothing is read: it is enough to know how far each partition goes.

        Errors: `UserError` when the broker does not answer.
        """
        try:
            metadata = self._consumer.list_topics(timeout=_ANSWER_SECONDS)
        except KafkaException as error:
            raise UserError(
                f"No Kafka broker answers at {self._address}. Start it, or set "
                "KAFKA_BOOTSTRAP_SERVERS (and KAFKA_CONFIG for a secured cluster)."
            ) from error
        cluster = metadata.cluster_id or ""
        topics = {t: m for t, m in metadata.topics.items() if t in self._topics and not m.error}
        ids = self._topic_ids(cluster, list(topics))
        found = [
            Partition(cluster, ids.get(topic), topic, number)
            for topic, described in topics.items()
            for number in described.partitions
        ]
        self._partitions = {(p.topic, p.number): p for p in found}
        lows = self._list_offsets(found, _EARLIEST)
        self._ends = self._list_offsets(found, _LATEST)
        self._next = {p: self._resume(p, landed.get(p), lows[p]) for p in found}
        self._is_cut_short = False
        if fetch:
            self._consumer.assign([TopicPartition(p.topic, p.number, self._next[p]) for p in found])

    def _resume(self, partition: Partition, landed: int | None, low: int) -> int:
        """Return the offset to read next; note what is wrong with it."""
        if landed is None:
            return low
        if landed < low:
            self._lose(partition, landed, low)
            return low
        if landed > self._ends[partition]:
            log.warning(
                "%s, partition %d ends at %d, before what has landed of it (%d): it was made anew or cut "
                "short; reading it again from %d.",
                partition.topic, partition.number, self._ends[partition], landed, low,
            )  # fmt: skip
            self._restarts.append(Restart(partition, landed, low))
            return low
        return landed

    def _lose(self, partition: Partition, landed: int, low: int) -> None:
        log.warning(
            "%s, partition %d: the broker has dropped offsets %d to %d before they were landed.",
            partition.topic, partition.number, landed, low - 1,
        )  # fmt: skip
        self._losses.append(Loss(partition, landed, low - 1))

    def _topic_ids(self, cluster: str, topics: list[str]) -> dict[str, str]:
        # The broker inside librdkafka knows no topic ids, and never answers when asked.
        if not topics or cluster.startswith("mockCluster"):
            return {}
        described = self._admin.describe_topics(TopicCollection(topics), request_timeout=_ANSWER_SECONDS)
        return {topic: str(future.result().topic_id) for topic, future in described.items()}

    def _list_offsets(self, partitions: Collection[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        if not partitions:
            return {}
        asked = {TopicPartition(p.topic, p.number): spec for p in partitions}
        answers = self._admin.list_offsets(asked, request_timeout=_ANSWER_SECONDS)
        return {
            self._partitions[tp.topic, tp.partition]: future.result().offset for tp, future in answers.items()
        }

    def topics_changed(self) -> bool:
        """Tell whether a topic or a partition has come or gone since `connect`; then connect again."""
        metadata = self._consumer.list_topics(timeout=_ANSWER_SECONDS)
        found = {
            (name, number)
            for name, topic in metadata.topics.items()
            if name in self._topics and not topic.error
            for number in topic.partitions
        }
        return self._is_cut_short or found != set(self._partitions)

    def refresh_ends(self) -> None:
        """Ask the broker where the partitions end now."""
        self._ends = self._list_offsets(list(self._ends), _LATEST)

    @property
    def ends(self) -> Mapping[Partition, int]:
        """Where the partitions ended when they were asked last."""
        return dict(self._ends)

    def backlog(self, ends: Mapping[Partition, int]) -> int:
        """Return how many messages lie between what has been read and these ends."""
        return sum(max(0, end - self._next[p]) for p, end in ends.items() if p in self._next)

    @property
    def lag(self) -> dict[str, int]:
        """Messages not read yet, by topic; a topic that the broker does not have is not in it."""
        lag: dict[str, int] = {}
        for p, end in self._ends.items():
            lag[p.topic] = lag.get(p.topic, 0) + max(0, end - self._next[p])
        return lag

    @property
    def losses(self) -> list[Loss]:
        """What the broker has dropped; handed on with the next batch."""
        return list(self._losses)

    def is_news(self, topic: str) -> bool:
        """Tell whether a topic is that of a table; heartbeats and transactions are none."""
        return topic not in self._silent

    def has_news(self) -> bool:
        """Tell whether any table's topic holds something that has not been read; heartbeats don't count."""
        return any(end > self._next[p] for p, end in self._ends.items() if p.topic not in self._silent)

    def wait(self, timeout: float) -> str | None:
        """Wait for a message; return its topic, or None after `timeout` seconds without any.

        The message is gone then: `connect` before anything is read or waited for again.

        Errors: `KafkaException` where the broker can't be reached.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None:
                return None
            error = message.error()
            if not error or error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                return message.topic()
            if error.fatal() or error.code() == KafkaError._ALL_BROKERS_DOWN:
                raise KafkaException(error)
        return None

    def read(self, timeout: float) -> Batch | None:
        """Wait for messages; return what has come, or None after `timeout` seconds without any.

        Where there is much to read, a batch holds as many messages as its bounds allow.
        """
        first = self._consumer.poll(timeout)
        if first is None:
            return None
        tables: defaultdict[str, list[pa.Table]] = defaultdict(list)
        moved: dict[Partition, int] = {}
        messages, count, size = [first], 0, 0
        while True:
            messages += self._consumer.consume(_AT_ONCE - len(messages), timeout=_REST_SECONDS)
            if not messages:
                break
            count += len(messages)
            for topic, table in self._tables(messages, moved).items():
                tables[topic].append(table)
                size += table.nbytes
            if count >= BATCH_MESSAGES or size >= _BATCH_BYTES or self._is_all(count):
                break
            messages = []
        return self._batch({topic: pa.concat_tables(parts) for topic, parts in tables.items()}, moved)

    def _is_all(self, count: int) -> bool:
        """Tell whether so many messages are all that there was when the ends were asked for."""
        return count >= self.backlog(self._ends)

    def _tables(self, messages: list[Message], moved: dict[Partition, int]) -> dict[str, pa.Table]:
        by_topic: defaultdict[str, list[Message]] = defaultdict(list)
        for message in messages:
            if error := message.error():
                self._on_error(message, error, moved)
            else:
                by_topic[message.topic() or ""].append(message)
        for topic, rows in by_topic.items():
            if links := rekeyed.links(rows):
                self._links.setdefault(topic, []).extend(links)
        return {topic: _table(rows) for topic, rows in by_topic.items()}

    def _batch(self, tables: dict[str, pa.Table], moved: dict[Partition, int]) -> Batch | None:
        for topic, table in tables.items():
            newest = table.group_by("partition").aggregate([("offset", "max")]).to_pylist()
            for row in newest:
                partition = self._partitions[topic, row["partition"]]
                moved[partition] = max(moved.get(partition, 0), row["offset_max"] + 1)
        moved = {p: offset for p, offset in moved.items() if offset > self._next[p]}
        if not moved:
            return None
        self._next.update(moved)
        # Asked after reading: what had been sent by the time of our newest message lies before them.
        self.refresh_ends()
        losses, self._losses = self._losses, []
        restarts, self._restarts = self._restarts, []
        links, self._links = self._links, {}
        return Batch(
            messages=tables,
            next_offsets=dict(self._next),
            end_offsets=dict(self._ends),
            read_at=datetime.now(UTC).replace(tzinfo=None),
            losses=losses,
            restarts=restarts,
            links=links,
        )

    def _on_error(self, message: Message, error: KafkaError, moved: dict[Partition, int]) -> None:
        code = error.code()
        partition = self._partitions.get((message.topic() or "", message.partition() or 0))
        if partition and code == KafkaError._PARTITION_EOF:
            # Control records of transactions have offsets and no messages: the end is past them.
            moved[partition] = message.offset() or 0
        elif partition and code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            low = self._list_offsets([partition], _EARLIEST)[partition]
            if low <= self._next[partition]:
                self._is_cut_short = True  # `connect` finds out how
                return
            self._lose(partition, self._next[partition], low)
            self._next[partition] = moved[partition] = low
            self._consumer.seek(TopicPartition(partition.topic, partition.number, low))
        elif error.fatal():
            raise KafkaException(error)
        else:
            log.warning("Kafka: %s", error.str())
            time.sleep(_REST_SECONDS)

    def commit(self, batch: Batch) -> None:
        """Tell the broker how far we are; only lag tools (and the simulated shop) look at it."""
        offsets = [TopicPartition(p.topic, p.number, o) for p, o in batch.next_offsets.items() if o]
        if not offsets:
            return
        try:
            self._consumer.commit(offsets=offsets, asynchronous=True)
        except KafkaException as error:
            log.warning("Offsets are landed, but could not be committed to the group: %s", error)


def _table(messages: list[Message]) -> pa.Table:
    return pa.table(
        [
            pa.array([m.partition() for m in messages], pa.int32()),
            pa.array([m.offset() for m in messages], pa.int64()),
            pa.array([m.timestamp()[1] for m in messages], pa.int64()),
            pa.array([m.key() for m in messages], pa.binary()),
            pa.array([m.value() for m in messages], pa.large_binary()),
        ],
        schema=MESSAGE_SCHEMA,
    )
