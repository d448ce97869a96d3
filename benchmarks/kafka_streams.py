"""Builds the Kafka Streams contender of `kstreams/`, and tells how to run it."""

from __future__ import annotations

from pathlib import Path

from stack.fetch import HOME, find_tool, run_maven_once

PROJECT = Path(__file__).with_name("kstreams")
_JVM_OPTIONS = ["-Xmx512m"]


def build(home: Path = HOME / "kstreams") -> Path:
    """Build it into `home`, unless done before, and return that. Errors: `StackError`."""
    sources = [PROJECT / "pom.xml", *sorted((PROJECT / "src").rglob("*.*"))]
    run_maven_once(PROJECT / "pom.xml", sources, home, "built", [f"-Dbench.home={home}", "package"])
    return home


def command(home: Path, broker: str, prefix: str, orders: int, state: Path, store: str) -> list[str]:
    """Return the command line that joins and averages so many orders; `store`: plain or versioned."""
    return [
        find_tool("java"),
        *_JVM_OPTIONS,
        "-cp",
        f"{home}/kstreams-1.jar:{home}/lib/*",
        "benchmarks.AverageByDiscount",
        *(broker, prefix, str(orders), str(state), store),
    ]
