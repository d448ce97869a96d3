"""Builds the Kafka Streams contender of `kstreams/`, and tells how to run it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from stack.errors import StackError
from stack.fetch import HOME, find_tool

PROJECT = Path(__file__).with_name("kstreams")
_JVM_OPTIONS = ["-Xmx512m"]


def build(home: Path = HOME / "kstreams") -> Path:
    """Build it into `home`, unless done before, and return that. Errors: `StackError`."""
    sources = [PROJECT / "pom.xml", *sorted((PROJECT / "src").rglob("*.*"))]
    version = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    done = home / "built"
    if done.exists() and done.read_text() == version:
        return home
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    maven = subprocess.run(
        [find_tool("mvn"), "-B", "-q", "-f", PROJECT / "pom.xml", f"-Dbench.home={home}", "package"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if maven.returncode != 0:
        raise StackError(f"Maven could not build {PROJECT}:\n{maven.stdout[-4000:]}")
    done.write_text(version)
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
