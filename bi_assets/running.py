"""Starts the platform as processes on this machine, and stops them all."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from bi_assets.errors import UserError
from bi_assets.outputs.preview import first_results
from bi_assets.settings import DEMO_FILE, Settings, read_env_file
from bi_assets.terminal import console, print_table

_LOOPBACK = "127.0.0.1"
_STOP_SECONDS = 15.0


def up(settings: Settings, port: int) -> int:
    """Run Dagster until Ctrl-C. Returns its exit code. Errors: `UserError` where the port is taken."""
    dagster = _start_dagster(settings, port, {})
    console.print(f"Dagster UI: http://{_LOOPBACK}:{port}   (Ctrl-C stops it)")
    return _wait([dagster])


def demo(settings: Settings, port: int, history_days: int) -> int:
    """Run the simulated shop, its broker and Dagster until Ctrl-C. Returns the exit code."""
    _check_port(port)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    shop = subprocess.Popen(
        [sys.executable, "-m", "shop", "serve", "--with-parent",
         "--data-dir", str(settings.data_dir / "shop"), "--history-days", str(history_days)],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        address, first_date = _opened(shop)
        console.print(f"Shop and Kafka broker: {address}")
        _remember(settings, address, first_date)
        dagster = _start_dagster(settings, port, {"KAFKA_BOOTSTRAP_SERVERS": address})
    except BaseException:
        _stop([shop])
        raise
    console.print(f"Dagster UI: http://{_LOOPBACK}:{port}   (Ctrl-C stops everything)")
    live = threading.Event()
    threading.Thread(target=_tell_of_the_shop, args=(shop, settings, live), daemon=True).start()
    threading.Thread(target=_land_the_history, args=(settings, live), daemon=True).start()
    return _wait([dagster, shop])  # stopped in this order: whoever reads before whoever is read


def _start_dagster(settings: Settings, port: int, extra: Mapping[str, str]) -> subprocess.Popen[str]:
    _check_port(port)
    home = (settings.data_dir / "dagster").resolve()
    home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_instance_file(), home / "dagster.yaml")
    command = [sys.executable, "-m", "dagster", "dev", "--log-level", "warning"]
    return subprocess.Popen(
        [*command, "-h", _LOOPBACK, "-p", str(port), "-m", "bi_assets.definitions"],
        # Dagster warns at each start that `dagster dev` has a successor.
        env={
            **read_env_file(),
            **os.environ,
            "DAGSTER_HOME": str(home),
            "BI_DATA_DIR": str(settings.data_dir.resolve()),
            "PYTHONWARNINGS": "ignore::FutureWarning",
            **extra,
        },
        cwd=home,  # beside the checkout's dagster.yaml, Dagster would warn that it uses another one
        text=True,
        start_new_session=True,
    )


def _instance_file() -> Path:
    """Return the dagster.yaml of the checkout, or of the installed package."""
    package = Path(__file__).parent
    return next(p for p in (package.parent / "dagster.yaml", package / "dagster.yaml") if p.exists())


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError as error:
            raise UserError(
                f"Port {port} is taken by another program: stop that, or choose another one with "
                "--port (make run PORT=3001)."
            ) from error


def _remember(settings: Settings, address: str, first_date: str) -> None:
    """Write what other commands need to find this demo: its broker, its key, its first partition.

    The key for pseudonyms is made at the first start, and kept private.
    """
    file = settings.data_dir / DEMO_FILE
    known = {"BI_PSEUDONYM_KEY": secrets.token_hex(32), "BI_FIRST_DATE": first_date, **read_env_file(file)}
    known["KAFKA_BOOTSTRAP_SERVERS"] = address
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in known.items()))


def _opened(shop: subprocess.Popen[str]) -> tuple[str, str]:
    """Wait until the shop is open; return its broker's address and the day of its first order."""
    assert shop.stdout
    address = ""
    for line in shop.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            address = event["bootstrap_servers"]
        elif event["event"] == "opened":
            return address, event["first_date"]
    raise UserError("The simulated shop did not start; the line above says why.")


def _tell_of_the_shop(shop: subprocess.Popen[str], settings: Settings, live: threading.Event) -> None:
    """Print how the shop's history loads, then that it is live."""
    assert shop.stdout
    told, landed = time.monotonic(), 0
    for line in shop.stdout:
        event = json.loads(line)
        if event["event"] == "history" and time.monotonic() - told > 2 and event["landed"] != landed:
            told, landed = time.monotonic(), event["landed"]
            console.print(f"shop: {landed:,} of some {event['total']:,} changes of its history have landed")
        elif event["event"] == "live":
            live.set()
            console.print("shop: its history has landed; from now on it changes live")
            _show_results(settings)


def _land_the_history(settings: Settings, live: threading.Event) -> None:
    """Land the shop's history while Dagster is still starting, and print the first result table."""
    environ = {**os.environ, "BI_DATA_DIR": str(settings.data_dir.resolve())}
    command = [sys.executable, "-c", "from bi_assets.cli import main; main()", "sync", "--json"]
    shown = False
    while not live.is_set():
        if subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=False).returncode:
            return  # it has said why; Dagster goes on
        shown = shown or _show_results(settings)


def _show_results(settings: Settings) -> bool:
    """Print the result table, if there is one; tell whether there is."""
    found = first_results(settings.published_file)
    for preview in found:
        print_table(preview.title, preview.columns, preview.rows)
    return bool(found)


def _wait(processes: list[subprocess.Popen[str]]) -> int:
    """Wait until one of the processes ends or we are told to stop; then stop them all."""
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stopping.set())
    ended: int | None = None
    while ended is None and not stopping.is_set():
        stopping.wait(0.2)
        ended = next((code for p in processes if (code := p.poll()) is not None), None)
    console.print("stopping ...")
    _stop(processes)
    return 0 if stopping.is_set() else ended or 1


def _stop(processes: list[subprocess.Popen[str]]) -> None:
    """Stop processes one after the other: each stops its own children, or has them killed."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
