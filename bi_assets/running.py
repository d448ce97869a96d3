"""Starts the platform's processes on this machine, and stops every one of them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bi_assets.errors import UserError
from bi_assets.settings import Settings, read_env_file
from bi_assets.terminal import console
from bi_assets.with_parent import STOP_SECONDS

Process = subprocess.Popen[str]

_LOOPBACK = "127.0.0.1"
_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def up(settings: Settings, port: int) -> int:
    """Run Dagster until Ctrl-C. Returns its exit code. Errors: `UserError` where the port is taken."""
    dagster = start_dagster(settings, port, {**read_env_file(), **os.environ})
    return wait([dagster])


def start_dagster(settings: Settings, port: int, environment: Mapping[str, str]) -> Process:
    """Start Dagster's code server, web UI and daemon on loopback.

    Errors: `UserError` where the port is taken.
    """
    check_port(port)
    home = settings.dagster_home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_instance_file(), home / "dagster.yaml")
    process = start(
        ["bi_assets.with_parent", "dagster", "dev", "--log-level", "warning",
         "-h", _LOOPBACK, "-p", str(port), "-m", "bi_assets.definitions"],
        {
            **environment,
            "DAGSTER_HOME": str(home),
            "BI_DATA_DIR": str(settings.data_dir.resolve()),
            # Dagster warns at each start that `dagster dev` has a successor.
            "PYTHONWARNINGS": "ignore::FutureWarning",
        },
        # Not beside the checkout's dagster.yaml: Dagster would warn that it uses another one.
        folder=home,
        held=subprocess.PIPE,
    )  # fmt: skip
    threading.Thread(target=_tell_when_it_answers, args=(port,), daemon=True).start()
    return process


def start(
    module_and_words: Sequence[str],
    environment: Mapping[str, str],
    *,
    folder: Path | None = None,
    held: int | None = None,
    output: int | None = None,
) -> Process:
    """Start a Python module as a process that ends when this one does, by whatever death.

    `held` is its standard input: a pipe, where it is to see for itself that this process is gone.
    """
    return subprocess.Popen(
        [sys.executable, "-m", *module_and_words],
        env=dict(environment),
        cwd=folder,
        stdin=held,
        stdout=output,
        text=True,
        start_new_session=True,
        preexec_fn=_prepare,
    )


def check_port(port: int) -> None:
    """Errors: `UserError` where a port is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"Port {port} is taken by another program: stop that, or choose another one with "
                "--port (make run PORT=3001)."
            ) from error


def wait(processes: Sequence[Process], first: Callable[[], None] = lambda: None) -> int:
    """Wait until a process ends or we are told to stop; then call `first` and stop them in order.

    Returns the exit code: 0 where we were told to.
    """
    told: list[int] = []  # no Event: a signal that comes while its lock is held would wait for ever
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.append(number))
    ended: int | None = None
    while ended is None and not told:
        time.sleep(0.2)
        ended = next((code for p in processes if (code := p.poll()) is not None), None)
    console.print("stopping ...")
    first()
    stop(processes)
    return 0 if told else ended or 1


def stop(processes: Sequence[Process]) -> None:
    """Stop processes one after the other: each stops its own children, or has them killed."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _prepare() -> None:
    """In the new process: heed SIGINT, and ask Linux for one when the parent is gone, also by SIGKILL.

    A script's background processes, and so their children, ignore SIGINT unless told otherwise.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGINT)


def _instance_file() -> Path:
    """Return the dagster.yaml of the checkout, or of the installed package."""
    package = Path(__file__).parent
    return next(p for p in (package.parent / "dagster.yaml", package / "dagster.yaml") if p.exists())


def _tell_when_it_answers(port: int) -> None:
    console.print(f"Dagster is starting on http://{_LOOPBACK}:{port} (Ctrl-C stops everything)")
    while True:
        with contextlib.suppress(OSError), socket.create_connection((_LOOPBACK, port), timeout=1):
            console.print(f"Dagster UI: http://{_LOOPBACK}:{port}")
            return
        time.sleep(0.5)
