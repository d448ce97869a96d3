"""What the figures were taken on: figures of two machines can't be compared."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import confluent_kafka

from benchmarks.broker import has_java
from stack.fetch import POM


def describe() -> dict[str, str]:
    """Return processor, memory and the versions of everything that takes part."""
    found = {
        "commit": _commit(),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "duckdb": version("duckdb"),
        "dagster": version("dagster"),
        "librdkafka": confluent_kafka.libversion()[0],
    }
    if has_java():
        found["kafka"] = _first(r"<kafka.version>(.*)</kafka.version>", POM.read_text())
        found["java"] = _first(r'version "([^"]+)"', _java_version())
    return found


def hardware(machine: dict[str, str]) -> str:
    """Return a line about the machine itself."""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['memory']}, {machine['system']}"


def versions(machine: dict[str, str]) -> str:
    """Return a line about what ran on it."""
    return ", ".join(
        f"{name} {machine[key]}"
        for name, key in (
            ("Kafka", "kafka"),
            ("Java", "java"),
            ("librdkafka", "librdkafka"),
            ("DuckDB", "duckdb"),
            ("Dagster", "dagster"),
            ("Python", "python"),
        )
        if key in machine
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    return _first(r"model name\s*:\s*(.*)", text) or platform.processor() or platform.machine()


def _commit() -> str:
    """Return the checkout's commit, `-dirty` where more than figures differ; empty outside of one."""
    if shutil.which("git") is None or not (commit := _git("rev-parse", "--short=12", "HEAD")):
        return ""
    # The first part's figures are written before the second part is taken.
    figures = [":(exclude)benchmarks/results", ":(exclude)docs/images/benchmarks.svg"]
    changed = _git("status", "--porcelain", "--", ".", *figures)
    return f"{commit}-dirty" if changed else commit


def _git(*words: str) -> str:
    command = ["git", "-C", str(POM.parent.parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _java_version() -> str:
    java = shutil.which("java") or "java"
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=True).stderr


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""
