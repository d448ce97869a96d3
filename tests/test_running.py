"""Starting the platform's processes, and that none of them is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bi_assets.running import start, stop
from bi_assets.with_parent import STOP_SECONDS
from tests.ui.processes import listening, with_environment

_START_SECONDS = 60.0


class Up:
    """`pharmacy-bi up` in a folder of its own, without a broker."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bi_assets", "up", "--port", port],
            env={**os.environ, "BI_DATA_DIR": str(data_dir), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: self._find("bi_assets.warm.server"), "warm process", _START_SECONDS)

    def processes(self) -> dict[int, str]:
        """Return every process of it: id and command."""
        return with_environment("BI_DATA_DIR", str(self._data_dir))

    def daemon(self) -> int:
        """Return Dagster's daemon."""
        (process,) = self._find("dagster._daemon")
        return process

    def kill(self) -> None:
        """Leave nothing behind."""
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self.process.wait()

    def _find(self, words: str) -> list[int]:
        return [process for process, command in self.processes().items() if words in command]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    up = Up(tmp_path)
    yield up
    up.kill()


def until(holds: Callable[[], object], what: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"no {what} in {seconds:.0f} s"
        time.sleep(0.1)


def test_nothing_is_left_when_up_is_killed_even_of_a_daemon_that_heeds_no_message(up: Up) -> None:
    os.kill(up.daemon(), signal.SIGSTOP)
    up.process.kill()
    up.process.wait()
    until(lambda: not up.processes(), "end of every process", STOP_SECONDS + 5)


def test_ctrl_c_leaves_nothing(up: Up) -> None:
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(2 * STOP_SECONDS) == 0
    assert not up.processes()


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """Ignore SIGINT, as a process does that a script has started with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_background")
def test_what_is_started_from_the_background_of_a_script_can_be_interrupted() -> None:
    server = start(["http.server", "0", "--bind", "127.0.0.1"], os.environ, output=subprocess.DEVNULL)
    until(lambda: listening([server.pid]), "server", _START_SECONDS)
    stop([server])
    assert server.returncode == 0
