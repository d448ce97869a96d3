"""What `status` tells of the topics at the broker: how far they lag, what is wrong, what to do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec

from bi_assets.errors import UserError
from bi_assets.landing.batch import Partition
from bi_assets.landing.kafka import KafkaSource, LandedOffsets
from bi_assets.settings import Settings

_ANSWER_SECONDS = 10.0
_PROBE_SECONDS = 3.0
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_AGAIN = "take a new snapshot of the table, unless the connector has"


@dataclass
class TopicState:
    """What has been found.

    `broker`: the address that was asked. `lag`: messages that have not landed, by topic; topics that the
    broker does not have are left out. `problems`: something is lost, or does not come. `notes`: good to know.
    """

    broker: str
    lag: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def topic_state(
    settings: Settings, topics: Iterable[str], landed: LandedOffsets, unread: Mapping[Partition, int]
) -> TopicState:
    """Ask the broker how it is with these topics.

    `unread`: messages of each partition that were known when it landed last, and had not.
    """
    state = TopicState(settings.bootstrap_servers)
    try:
        with KafkaSource(settings, list(topics), ahead_kbytes=64) as source:
            state.broker = source.address
            source.connect(landed, fetch=False)
            state.lag = source.lag
            state.problems += _gone(source, landed, unread)
            state.problems += told_losses(
                (lost.partition.topic, lost.partition.number, lost.first, lost.last) for lost in source.losses
            )
            state.notes += told_restarts(
                (again.partition.topic, again.partition.number, again.landed) for again in source.restarts
            )
            state.notes += _clusters(source, landed)
            if not source.is_embedded:
                state.notes += _unfinished(source) + _compacted(source)
            if any(state.lag.values()) and (hindrance := source.probe(_PROBE_SECONDS)):
                state.problems.append(str(hindrance))
    except (UserError, KafkaException) as error:
        state.problems.append(str(error))
    return state


def told_losses(losses: Iterable[tuple[str, int, int, int]]) -> list[str]:
    """Return a sentence for each topic, of (topic, partition, first offset, last offset)."""
    by_topic: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
    for topic, number, first, last in losses:
        by_topic[topic].append((number, first, last))
    return [
        f"{topic}: {sum(last - first + 1 for _, first, last in lost):,} offsets were dropped by the broker "
        f"before they were landed ({', '.join(f'{p}: {first}-{last}' for p, first, last in lost)}): "
        f"{_AGAIN}, and have the broker keep messages for longer (retention.ms)."
        for topic, lost in by_topic.items()
    ]


def told_restarts(restarts: Iterable[tuple[str, int, int]]) -> list[str]:
    """Return a sentence for each topic, of (topic, partition, offsets that had landed)."""
    by_topic: defaultdict[str, list[str]] = defaultdict(list)
    for topic, number, offset in restarts:
        if offset:
            by_topic[topic].append(f"{number}: {offset}")
    return [
        f"{topic} was made anew or cut short at the broker when offsets had landed of it "
        f"({', '.join(places)}), and is read again from its beginning. What else it held is lost: {_AGAIN}."
        for topic, places in by_topic.items()
    ]


def _gone(source: KafkaSource, landed: LandedOffsets, unread: Mapping[Partition, int]) -> list[str]:
    there = {p.topic for p in source.partitions}
    had: defaultdict[str, int] = defaultdict(int)
    left: defaultdict[str, int] = defaultdict(int)
    for p, offset in landed.items():
        if p.cluster_id == source.cluster and p.topic not in there and source.is_news(p.topic):
            had[p.topic] += offset
            left[p.topic] += unread.get(p, 0)
    return [
        f"{topic}: the broker does not have this topic any more, or does not show it to this login. Landed "
        f"of it: {n:,} offsets; known and not landed: {left[topic]:,}. Have the connector make it again with "
        "a new snapshot of the table; if the shop has no such table any more, remove its contract."
        for topic, n in had.items()
        if n
    ]


def _clusters(source: KafkaSource, landed: LandedOffsets) -> list[str]:
    others = {p.cluster_id for p, n in landed.items() if n and p.cluster_id != source.cluster}
    if not others or source.is_embedded:  # whose id is a new one at each start
        return []
    return [
        f"This is Kafka cluster {source.cluster}; {', '.join(sorted(others))} was landed before. Each is "
        "read from its beginning; changes that come again are known by their place in the binlog."
    ]


def _unfinished(source: KafkaSource) -> list[str]:
    asked = {TopicPartition(p.topic, p.number): _LATEST for p in source.partitions}
    if not asked:
        return []
    stable = source.admin.list_offsets(
        asked, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_ANSWER_SECONDS
    )
    ends = {(p.topic, p.number): end for p, end in source.ends.items()}
    behind: defaultdict[str, int] = defaultdict(int)
    for tp, future in stable.items():
        behind[tp.topic] += max(0, ends.get((tp.topic, tp.partition), 0) - future.result().offset)
    return [
        f"{topic}: {n:,} messages belong to a transaction that its producer has not finished, or wait behind "
        "one; they land once it is. If it never is: kafka-transactions.sh find-hanging, then abort."
        for topic, n in behind.items()
        if n
    ]


def _compacted(source: KafkaSource) -> list[str]:
    topics = {p.topic for p in source.partitions if source.is_news(p.topic)}
    if not topics:
        return []
    resources = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in sorted(topics)]
    described = source.admin.describe_configs(resources, request_timeout=_ANSWER_SECONDS)
    compacted = []
    for resource, future in described.items():
        try:
            policy = future.result()["cleanup.policy"].value
        except KafkaException:
            continue  # this login may not ask, and need not
        if "compact" in policy:
            compacted.append(resource.name)
    if not compacted:
        return []
    return [
        f"{', '.join(compacted)}: compacted (cleanup.policy). What the broker removes before it is landed "
        "are past states, and no one knows of the loss: set cleanup.policy=delete."
    ]
