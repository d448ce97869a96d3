"""The platform, started and stopped as a user would: `pharmacy-bi demo` and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from tests.ui import processes
from tests.ui.waiting import until

HISTORY_DAYS = 120
_START_SECONDS = 180.0
_STOP_SECONDS = 30.0

_PARTITION = """
query ($asset: AssetKeyInput!, $days: [String!]) {
  assetNodeOrError(assetKey: $asset) { ... on AssetNode {
    assetMaterializations(partitions: $days, limit: 1) {
      runId timestamp metadataEntries { label ... on IntMetadataEntry { intValue } }
    }
  } }
}"""


class Demo:
    """`pharmacy-bi demo` in a folder of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.published = data_dir / "publish" / "marts.duckdb"
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._terminal = data_dir.with_suffix(".terminal.txt")
        with self._terminal.open("wb") as terminal:
            self._process = subprocess.Popen(
                [Path(sys.executable).parent / "pharmacy-bi", "demo",
                 "--port", str(self.port), "--history-days", str(HISTORY_DAYS)],
                env={**os.environ, "BI_DATA_DIR": str(data_dir)},
                stdout=terminal,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def wait_until_there_is_something_to_see(self) -> None:
        """Wait for the first micro-batch: the published file, and yesterday's partition in Dagster."""
        until(
            lambda: (
                self._is_running()
                and self.published.exists()
                and self.latest("order_value_by_discount_day", self.yesterday())
            ),
            lambda: f"a first micro-batch; the terminal shows:\n{self.terminal()}",
            seconds=_START_SECONDS,
        )

    def terminal(self) -> str:
        """Return what it has printed."""
        return self._terminal.read_text()

    def yesterday(self) -> date:
        """Return the last whole day of the business time zone, UTC."""
        return datetime.now(UTC).date() - timedelta(days=1)

    def processes(self) -> dict[int, str]:
        """Return every process that it has started, itself included: id and command."""
        return processes.with_environment("BI_DATA_DIR", str(self.data_dir))

    def graphql(self, query: str, **variables: object) -> Any:
        """Return the data that Dagster gives to a query. Errors: `AssertionError` with its errors."""
        request = urllib.request.Request(
            f"{self.url}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer["errors"]
        return answer["data"]

    def latest(self, mart: str, day: date) -> dict[str, Any] | None:
        """Return the latest materialization of a partition: `runId`, `timestamp` and numbers by label.

        None where there is none, or where Dagster does not answer yet.
        """
        try:
            data = self.graphql(_PARTITION, asset={"path": [mart]}, days=[day.isoformat()])
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None
        if not (events := data["assetNodeOrError"].get("assetMaterializations")):
            return None
        numbers = {m["label"]: m["intValue"] for m in events[0].pop("metadataEntries") if "intValue" in m}
        return {**events[0], **numbers, "timestamp": int(events[0]["timestamp"]) / 1000}

    def query(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Query the published file as an analyst would."""
        with closing(duckdb.connect(str(self.published), read_only=True)) as con:
            return con.execute(sql, parameters).fetchall()

    def stop(self) -> None:
        """Press Ctrl-C. Errors: `AssertionError` where it does not end well, or leaves something running."""
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"runs on {_STOP_SECONDS:.0f} s after Ctrl-C:\n{self.terminal()}") from None
        left = self.processes()
        self.kill()
        assert code == 0, self.terminal()
        assert not left, "processes are left behind"
        assert "Traceback" not in self.terminal(), self.terminal()

    def kill(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self._process.wait()

    def _is_running(self) -> bool:
        assert self._process.poll() is None, f"it ended:\n{self.terminal()}"
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
