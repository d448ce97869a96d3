"""Places in Kafka as a person writes them: `orders/0/42`, `shop.shop.orders/0/42`."""

from __future__ import annotations

from bi_assets.errors import UserError
from bi_assets.settings import Settings


def topic_of(name: str, settings: Settings) -> str:
    """Return the topic that a name stands for: a table's name does for its topic."""
    return name if "." in name else settings.topic(name)


def place(text: str, settings: Settings) -> tuple[str, int, int]:
    """Return topic, partition and offset. Errors: `UserError` where the text is no place."""
    parts = text.rsplit("/", 2)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise UserError(f"{text!r} is no place in Kafka: write TABLE/PARTITION/OFFSET, such as orders/0/42.")
    return topic_of(parts[0], settings), int(parts[1]), int(parts[2])
