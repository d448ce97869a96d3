"""A batch of Kafka messages, as Arrow tables: one per topic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa

LATEST_MS = 253402300799999
"""The end of the year 9999, the last time that can be told."""
MESSAGE_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("offset", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("key", pa.binary()),
        ("value", pa.large_binary()),
    ]
)
"""Grain: message. Rows of a partition come in offset order, each offset once."""


@dataclass(frozen=True)
class Partition:
    """A partition of one broker's topic; `topic_id` is None where the broker gives none."""

    cluster_id: str
    topic_id: str | None
    topic: str
    number: int

    @property
    def source(self) -> tuple[str, str]:
        """What offsets belong to: a topic made anew is another source."""
        return self.cluster_id, self.topic_id or self.topic


@dataclass(frozen=True)
class Batch:
    """Messages by topic, and how far each partition has been read.

    `next_offsets`: the offset to read next (one past the last message, further where the broker
    skipped control records). `end_offsets`: where each partition ended once the batch was read;
    partitions without news are in both too. `read_at`: naive UTC. `links`: by topic, the messages
    whose headers name another key (see `rekeyed`). `choking`: by topic, messages apart from the others,
    which the decoder fails on.
    """

    messages: Mapping[str, pa.Table]
    next_offsets: Mapping[Partition, int]
    end_offsets: Mapping[Partition, int]
    read_at: datetime
    losses: Sequence[Loss] = ()
    restarts: Sequence[Restart] = ()
    choking: Mapping[str, pa.Table] = field(default_factory=dict)
    links: Mapping[str, Sequence[tuple[int, int, bytes]]] = field(default_factory=dict)


@dataclass(frozen=True)
class Loss:
    """Offsets [first, last] that the broker dropped before they were landed."""

    partition: Partition
    first: int
    last: int


@dataclass(frozen=True)
class Restart:
    """A partition that ends before what has landed of it, at offset `landed`.

    It was made anew, or cut short by a broker's failure; it is read again from offset `low`.
    """

    partition: Partition
    landed: int
    low: int
