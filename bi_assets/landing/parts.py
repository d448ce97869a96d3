"""What a form's module hands on: messages whose columns are told apart, and those that can't be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from bi_assets.landing.rows import Layout


@dataclass(frozen=True)
class Part:
    """Messages of one form and schema.

    `table` is what the SQL `relation` reads as `part`; see `rows` for what it gives. `fields` counts
    the rows that have each column, known to the contract or not. `has_event_time` tells whether the
    messages say when the change was made.
    """

    table: pa.Table
    relation: str
    layout: Layout
    fields: Mapping[str, int] = field(default_factory=dict)
    has_event_time: bool = True


@dataclass
class Told:
    """Messages told apart, and refused ones, each with its cause."""

    parts: list[Part] = field(default_factory=list)
    refused: list[tuple[pa.Table, str]] = field(default_factory=list)

    def refuse(self, messages: pa.Table, cause: str) -> None:
        """Set messages aside, if there are any."""
        if messages.num_rows:
            self.refused.append((messages, cause))
