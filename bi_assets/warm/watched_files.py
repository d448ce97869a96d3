"""What the platform's code and declarations are, as far as the file system tells."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

_WATCHED = (".py", ".sql", ".toml")

Fingerprint = frozenset[tuple[Path, int, int]]
"""Path, time of change and size of each file."""


def fingerprint(packages: Iterable[str]) -> Fingerprint:
    """Return what changes whenever a file of these packages does, or one comes or goes."""
    found = set()
    for file in _files(packages):
        try:
            status = file.stat()
        except FileNotFoundError:
            continue  # gone meanwhile
        found.add((file, status.st_mtime_ns, status.st_size))
    return frozenset(found)


def _files(packages: Iterable[str]) -> Iterator[Path]:
    for package in packages:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            yield from (file for file in Path(folder).rglob("*") if file.suffix in _WATCHED)
