"""Kafka to batches: explicit offsets, no group subscription, nothing skipped in silence.

The landed offsets come from the warehouse. Where the broker no longer has them, the hole is
reported as a loss; the client's automatic reset is off.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from threading import Thread
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._metadata import ClusterMetadata

from bi_assets.errors import UserError
from bi_assets.landing import rekeyed
from bi_assets.landing.batch import LATEST_MS, MESSAGE_SCHEMA, Batch, Loss, Partition, Restart
from bi_assets.landing.kafka_client import KafkaClient, Refused
from bi_assets.settings import Settings

log = logging.getLogger(__name__)
# Arrow's own pool hands each batch's memory back and takes it anew, page by page.
pa.set_memory_pool(pa.system_memory_pool())

BATCH_MESSAGES = 150_000
_BATCH_BYTES = 64 << 20
_AT_ONCE = 5_000  # Python objects alive at a time
_ANSWER_SECONDS = 10.0
_RESTART_SECONDS = 30.0  # Kafka gives up a broker that was killed after nine
_AGAIN_SECONDS = 0.2
_CLOSE_SECONDS = 2.0
_NO_ID = "AAAAAAAAAAAAAAAAAAAAAA"  # of brokers before Kafka 2.8
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_REST_SECONDS = 0.01  # what else has arrived by then goes into the same batch

LandedOffsets = Mapping[Partition, int]
"""The offset to read next, of each partition of any cluster that has landed anything."""


class KafkaSource:
    """The topics of the source tables, from where they have landed.

    Use it as a context manager; call `connect` before anything else. Not thread-safe.
    """

    def __init__(self, settings: Settings, topics: Collection[str], *, ahead_kbytes: int = 32_768) -> None:
        """`ahead_kbytes` bounds what is fetched before it is asked for."""
        self._topics = frozenset(topics)
        self._silent = frozenset({settings.heartbeat_topic, settings.transaction_topic})
        self._client = KafkaClient(settings)
        self._consumer = self._client.consumer(
            fetch_queue_backoff_ms=5,  # the default of 1000 leaves the client waiting
            queued_max_messages_kbytes=ahead_kbytes,
            fetch_wait_max_ms=100,  # not every broker answers earlier when something comes
        )
        self._admin = self._client.admin()
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._next: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._at_end: dict[Partition, int] = {}
        self._has_changed = False
        self.cluster = ""
        """The cluster's id, once connected."""
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
        # To close is to wait for the last commit: for a minute, where the broker is away.
        closing = Thread(target=self._consumer.close, daemon=True)
        closing.start()
        closing.join(_CLOSE_SECONDS)

    def connect(self, landed: LandedOffsets, *, fetch: bool = True, patience: float | None = None) -> None:
        """Find the topics' partitions and go on where each has landed.

        Without `fetch` nothing is read: it is enough to know how far each partition goes.

        Errors: `UserError` when the broker does not answer for `patience` seconds, 10 if not given;
        `Refused` at once where it refuses the login.
        """
        found = self._find(self._client.reach(self._consumer, patience or _ANSWER_SECONDS))
        self._partitions = {(p.topic, p.number): p for p in found}
        self._has_changed, self._at_end = False, {}
        self._losses, self._restarts = [], []
        lows = self._list_offsets(found, _EARLIEST)
        self._ends = self._list_offsets(list(lows), _LATEST)
        former = _former(landed, found)
        self._next = {p: self._resume(p, landed.get(p), former.get(p), lows[p]) for p in self._ends}
        if fetch:
            self._consumer.assign([TopicPartition(p.topic, p.number, at) for p, at in self._next.items()])

    def _find(self, metadata: ClusterMetadata) -> list[Partition]:
        """Return the partitions that the broker has of our topics."""
        self.cluster = metadata.cluster_id or ""
        topics = {t: m for t, m in metadata.topics.items() if t in self._topics and not m.error}
        ids = self._topic_ids(list(topics))
        return [
            Partition(self.cluster, ids[topic], topic, number)
            for topic, described in topics.items()
            if topic in ids
            for number in described.partitions
        ]

    def _resume(self, partition: Partition, landed: int | None, former: int | None, low: int) -> int:
        """Return the offset to read next; note what is wrong with it.

        `former` is how far a topic of the same name had landed that is no more.
        """
        if landed is None and former is not None:
            log.warning(
                "%s, partition %d: the topic was made anew when %d offsets had landed; reading the new one.",
                partition.topic, partition.number, former,
            )  # fmt: skip
            self._restarts.append(Restart(partition, former, low))
            return low
        if landed is None:
            landed = 0
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
        if not self.is_news(partition.topic):
            return  # a heartbeat that nobody has heard is no loss
        log.warning(
            "%s, partition %d: the broker has dropped offsets %d to %d before they were landed.",
            partition.topic, partition.number, landed, low - 1,
        )  # fmt: skip
        self._losses.append(Loss(partition, landed, low - 1))

    def _topic_ids(self, topics: list[str]) -> dict[str, str | None]:
        """Return the id of each topic that is there, None where the broker gives none."""
        # The broker inside librdkafka knows no topic ids, and never answers when asked.
        if not topics or self.is_embedded:
            return dict.fromkeys(topics)
        ids: dict[str, str | None] = {}
        described = self._admin.describe_topics(TopicCollection(topics), request_timeout=_ANSWER_SECONDS)
        for topic, future in described.items():
            try:
                found = str(future.result().topic_id)
                ids[topic] = None if found == _NO_ID else found
            except KafkaException as error:
                if not _is_unknown(error):
                    raise self._unreachable(error) from error
        return ids

    @property
    def is_embedded(self) -> bool:
        """Tell whether the broker is the one inside librdkafka, which answers few questions."""
        return self.cluster.startswith("mockCluster")

    def _list_offsets(self, partitions: Collection[Partition], spec: OffsetSpec) -> dict[Partition, int]:
        """Return an offset of each partition that is still there. Waits for a broker that restarts."""
        if not partitions:
            return {}
        asked = {TopicPartition(p.topic, p.number): spec for p in partitions}
        deadline = time.monotonic() + _RESTART_SECONDS
        self._admin.poll(0)  # also hands out a token, where one is needed
        while True:
            found: dict[Partition, int] = {}
            failure = None
            answers = self._admin.list_offsets(asked, request_timeout=_ANSWER_SECONDS)
            for tp, future in answers.items():
                try:
                    found[self._partitions[tp.topic, tp.partition]] = future.result().offset
                except KafkaException as error:
                    if _is_unknown(error):
                        self._has_changed = True  # `connect` finds out how
                    else:
                        failure = error
            if not failure:
                return found
            if time.monotonic() > deadline:
                raise self._unreachable(failure) from failure
            time.sleep(_AGAIN_SECONDS)
            with suppress(KafkaException):
                # Else the client goes on believing that there are no leaders.
                self._admin.list_topics(timeout=_ANSWER_SECONDS)

    def _unreachable(self, error: KafkaException) -> UserError:
        self._client.complain(error.args[0])
        self._consumer.poll(0)  # hands over the reasons
        return self._client.unreachable()

    def topics_changed(self) -> bool:
        """Tell whether a topic or a partition has come, gone or been made anew; then connect again.

        Errors: `UserError` when the broker does not answer.
        """
        try:
            metadata = self._consumer.list_topics(timeout=_ANSWER_SECONDS)
        except KafkaException as error:
            raise self._unreachable(error) from error
        return self._has_changed or set(self._find(metadata)) != set(self._partitions.values())

    def refresh_ends(self) -> None:
        """Ask the broker where the partitions end now."""
        self._ends |= self._list_offsets(list(self._ends), _LATEST)
        self._client.answered()

    @property
    def hindrance(self) -> Refused | None:
        """What keeps messages from coming however long one waits; those of other topics still come."""
        return self._client.hindrance

    @property
    def ends(self) -> Mapping[Partition, int]:
        """Where the partitions ended when they were asked last."""
        return dict(self._ends)

    def backlog(self, ends: Mapping[Partition, int]) -> int:
        """Return how many messages lie between what has been read and these ends."""
        return sum(
            max(0, end - self._next[p]) for p, end in ends.items() if p in self._next and not self._is_read(p)
        )

    def _is_read(self, partition: Partition) -> bool:
        """Tell whether the broker has no more to give, though it may hold an unfinished transaction."""
        return self._at_end.get(partition) == self._next[partition]

    @property
    def lag(self) -> dict[str, int]:
        """Messages not read yet, by topic; a topic that the broker does not have is not in it."""
        lag: dict[str, int] = {}
        for p, end in self._ends.items():
            lag[p.topic] = lag.get(p.topic, 0) + max(0, end - self._next[p])
        return lag

    @property
    def address(self) -> str:
        """The brokers that are asked first."""
        return self._client.address

    @property
    def admin(self) -> AdminClient:
        """To ask the cluster about itself."""
        return self._admin

    @property
    def partitions(self) -> list[Partition]:
        """The partitions that the broker has of our topics."""
        return list(self._partitions.values())

    @property
    def restarts(self) -> list[Restart]:
        """What was made anew or cut short; handed on with the next batch."""
        return list(self._restarts)

    @property
    def losses(self) -> list[Loss]:
        """What the broker has dropped; handed on with the next batch."""
        return list(self._losses)

    def is_news(self, topic: str) -> bool:
        """Tell whether a topic is that of a table; heartbeats and transactions are none."""
        return topic not in self._silent

    def has_news(self) -> bool:
        """Tell whether any table's topic holds something that can be read; heartbeats don't count."""
        return not self.hindrance and any(
            end > self._next[p] and not self._is_read(p)
            for p, end in self._ends.items()
            if p.topic not in self._silent
        )

    def wait(self, timeout: float) -> str | None:
        """Wait for a message; return its topic, or None after `timeout` seconds without any.

        The message is gone then: `connect` before anything is read or waited for again.

        Errors: `UserError` where the client gives up.
        """
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            message = self._consumer.poll(left)
            if message is None:
                return None
            error = message.error()
            if not error or error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                return message.topic()
            if error.fatal():
                raise _fatal(error)
            self._client.complain(error, message.topic())
        return None

    def probe(self, timeout: float) -> Refused | None:
        """Try to read where there is something unread; return what keeps it from coming.

        `connect` before anything is read.
        """
        waiting = {p for p, end in self._ends.items() if end > self._next[p]}
        self._consumer.assign([TopicPartition(p.topic, p.number, self._next[p]) for p in waiting])
        deadline = time.monotonic() + timeout
        while waiting and not self.hindrance and (left := deadline - time.monotonic()) > 0:
            if message := self._consumer.poll(min(left, _AGAIN_SECONDS)):
                if error := message.error():
                    self._client.complain(error, message.topic())
                # An error of the connection is of no partition.
                if partition := self._partitions.get((message.topic() or "", message.partition() or 0)):
                    waiting.discard(partition)
        return self.hindrance

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
            # Where a transaction is not finished, the end is its beginning.
            moved[partition] = self._at_end[partition] = message.offset() or 0
        elif partition and code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._has_changed = True  # `connect` finds out how
        elif error.fatal():
            raise _fatal(error)
        else:
            self._client.complain(error, message.topic())
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
            _times([m.timestamp()[1] for m in messages]),
            pa.array([m.key() for m in messages], pa.binary()),
            pa.array([m.value() for m in messages], pa.large_binary()),
        ],
        schema=MESSAGE_SCHEMA,
    )


def _former(landed: LandedOffsets, found: Collection[Partition]) -> dict[Partition, int]:
    """Return how far the same partition of a deleted topic had landed, for partitions of a new one."""
    known = {p.source for p in landed}
    before: dict[tuple[str, str, int], int] = {}
    for p, offset in landed.items():
        place = (p.cluster_id, p.topic, p.number)
        before[place] = max(before.get(place, 0), offset)
    return {
        p: before[place]
        for p in found
        if p.source not in known and (place := (p.cluster_id, p.topic, p.number)) in before
    }


def _fatal(error: KafkaError) -> UserError:
    return UserError(f"The Kafka client gave up ({error.str()}). What has landed is safe; run this again.")


def _is_unknown(error: KafkaException) -> bool:
    return bool(error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART)


def _times(milliseconds: list[int]) -> pa.Array:
    """Return when messages were sent, in epoch milliseconds; null where their producer told no such time."""
    told = pa.array(milliseconds, pa.int64())
    is_time = pc.and_(pc.greater(told, 0), pc.less_equal(told, LATEST_MS))
    return pc.if_else(is_time, told, pa.scalar(None, pa.int64()))
