"""How much room the platform takes on disk."""

from __future__ import annotations

import stat
from pathlib import Path

from bi_assets.settings import Settings


def sizes(settings: Settings) -> dict[str, int]:
    """Return the bytes of the core database, of what is published, and of Dagster's folder."""
    return {
        "core": _bytes(settings.core_file),
        "published": _bytes(settings.publish_dir),
        "dagster": _bytes(settings.dagster_home),
    }


def _bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder; others may come and go meanwhile."""
    return sum(_size(file) for file in ([path] if path.is_file() else path.rglob("*")))


def _size(file: Path) -> int:
    try:
        status = file.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def human(size: int) -> str:
    """Return a size as people read it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
