"""Messages read again from Kafka: of what has landed, or could not, as far as Kafka still has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from bi_assets.errors import UserError
from bi_assets.landing import rekeyed
from bi_assets.landing.batch import Batch, Partition
from bi_assets.landing.kafka import KafkaSource
from bi_assets.landing.kafka import _table as table_of
from bi_assets.landing.kafka_client import KafkaClient
from bi_assets.settings import Settings

_NEAR = 1_000  # a gap of so many offsets is read over; a larger one is jumped
_SILENCE_SECONDS = 20.0


def read_places(
    settings: Settings, places: Mapping[Partition, Collection[int]]
) -> tuple[dict[Partition, pa.Table], dict[str, list[rekeyed.Link]]]:
    """Return the messages at these offsets, by partition, in offset order; what Kafka lost is not in it.

    Returns their links of changed keys as well, by topic.

    Errors: `UserError` where the broker does not answer.
    """
    wanted: dict[tuple[str, int], list[int]] = {}
    partitions: dict[tuple[str, int], Partition] = {}
    with KafkaSource(settings, {p.topic for p in places}) as source:
        source.connect({}, fetch=False)
        ends = source.ends
        for partition, offsets in places.items():
            if partition not in ends:
                continue  # a topic made anew is another one
            low = ends[partition] - source.backlog({partition: ends[partition]})
            there = sorted(o for o in offsets if low <= o < ends[partition])
            if there:
                wanted[partition.topic, partition.number] = there
                partitions[partition.topic, partition.number] = partition
    found = _pick(settings, wanted) if wanted else {}
    links: defaultdict[str, list[rekeyed.Link]] = defaultdict(list)
    for (topic, _), messages in found.items():
        links[topic] += rekeyed.links(messages)
    return {partitions[where]: table_of(messages) for where, messages in found.items()}, dict(links)


def _pick(
    settings: Settings, wanted: Mapping[tuple[str, int], Sequence[int]]
) -> dict[tuple[str, int], list[Message]]:
    found: defaultdict[tuple[str, int], list[Message]] = defaultdict(list)
    left = {where: list(reversed(offsets)) for where, offsets in wanted.items()}
    client = KafkaClient(settings)
    consumer = client.consumer()
    try:
        consumer.assign([TopicPartition(*where, offsets[-1]) for where, offsets in left.items()])
        while left:
            message = consumer.poll(_SILENCE_SECONDS)
            if message is None:
                raise UserError(
                    f"The broker at {client.address} has stopped sending: nothing is changed by "
                    "what was read; run this again."
                )
            where = (message.topic() or "", message.partition() or 0)
            if where not in left:
                continue
            offset, error = message.offset() or 0, message.error()
            if error and error.code() != KafkaError._PARTITION_EOF:
                if error.fatal():
                    raise KafkaException(error)
                continue
            before = left[where][-1]
            while left[where] and left[where][-1] < offset:
                left[where].pop()  # compacted away, or an aborted transaction's
            if left[where] and left[where][-1] == offset and not error:
                left[where].pop()
                found[where].append(message)
            if error or not left[where]:
                del left[where]
                consumer.pause([TopicPartition(*where)])
            elif left[where][-1] - max(offset, before) > _NEAR:
                consumer.seek(TopicPartition(*where, left[where][-1]))
    finally:
        consumer.close()
    return dict(found)


class Rereading:
    """Batches of what has landed, from given offsets on. Use it as a context manager.

    `gone` has, by partition, how many of the offsets Kafka no longer has.
    """

    def __init__(
        self, settings: Settings, starts: Mapping[Partition, int], landed: Mapping[Partition, int]
    ) -> None:
        self._source = KafkaSource(settings, {p.topic for p in starts})
        self._landed = landed
        self._starts = starts
        self.gone: dict[Partition, int] = {}

    def __enter__(self) -> Rereading:
        """Find out what is there. Errors: `UserError` where the broker does not answer."""
        try:
            self._source.connect({}, fetch=False)
            ends = self._source.ends
            lows = {p: end - self._source.backlog({p: end}) for p, end in ends.items()}
            self._ends = {p: min(self._landed.get(p, 0), end) for p, end in ends.items()}
            begins = {p: max(self._starts.get(p, end), lows[p]) for p, end in self._ends.items()}
            for p, start in self._starts.items():
                low = lows.get(p, self._landed.get(p, 0))
                if lost := min(low, self._landed.get(p, 0)) - start:
                    self.gone[p] = max(lost, 0)
            # Partitions that have nothing to be read begin where they end.
            self._source.connect({p: min(begins[p], ends[p]) if p in self._starts else ends[p] for p in ends})
        except BaseException:
            self._source.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    @property
    def left(self) -> int:
        """Messages still to be read."""
        return self._source.backlog(self._ends)

    def batches(self) -> Iterator[Batch]:
        """Yield what there is, and nothing of what has not landed yet.

        Errors: `UserError` where the broker stops sending.
        """
        silent = 0.0
        while self.left:
            batch = self._source.read(1.0)
            if batch is None:
                silent += 1.0
                if silent > _SILENCE_SECONDS:
                    raise UserError("The broker has stopped sending; what was read is done. Run this again.")
                continue
            silent = 0.0
            yield Batch(
                messages={topic: self._landed_only(topic, table) for topic, table in batch.messages.items()},
                next_offsets=batch.next_offsets,
                end_offsets=batch.end_offsets,
                read_at=batch.read_at,
                links=batch.links,
            )

    def _landed_only(self, topic: str, messages: pa.Table) -> pa.Table:
        has_landed = pa.array([False] * messages.num_rows)
        for partition, end in self._ends.items():
            if partition.topic == topic:
                here = pc.equal(messages.column("partition"), partition.number)
                has_landed = pc.or_(has_landed, pc.and_(here, pc.less(messages.column("offset"), end)))
        return messages.filter(has_landed)
