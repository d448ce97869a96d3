"""The shop as a process: killed, refused, stopped, and never losing a change."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shop.debezium import HEARTBEAT_TOPIC
from shop.schema import TABLES
from shop.store import SqliteShop
from tests.shop.reader import Read, Reader, changes, patiently, running_shop, tables_of

SERVE = [sys.executable, "-m", "shop", "serve"]
SOME = ("--history-days", "200", "--no-live")
LITTLE = ("--history-days", "40", "--no-live")


def read_until_landed(data_dir: Path, *arguments: str) -> list[Read]:
    """Run the shop until all its history has landed; return what was read."""
    found: list[Read] = []
    with running_shop(data_dir, *arguments) as shop:
        reader = Reader(shop.bootstrap_servers)
        for _ in patiently():
            found += reader.poll()
            if shop.has_said("live"):
                break
        reader.close()
        assert shop.stop() == 0
        assert shop.has_said("stopped")
    return found


def read_and_kill(data_dir: Path, *, commit: bool) -> list[Read]:
    """Run the shop; kill it when it has said that more has landed, or before anything can."""
    found: list[Read] = []
    with running_shop(data_dir, *SOME) as shop:
        reader = Reader(shop.bootstrap_servers)
        reports = 0
        for _ in patiently():
            landed = [event["landed"] for event in shop.events() if "landed" in event]
            if found and (not commit or landed[-1] > landed[0]):
                break
            # A little for each report, lest everything lands between two of them.
            if len(landed) == reports:
                time.sleep(0.02)
            else:
                reports = len(landed)
                found += reader.poll(2_000, commit=commit)
        shop.process.send_signal(signal.SIGKILL)
        shop.process.wait()
        assert not shop.has_said("live")
        reader.close()
    return found


def test_killed_at_any_moment_it_loses_no_change_and_repeats_no_snapshot(tmp_path: Path) -> None:
    data_dir = tmp_path / "shop"
    # The first kill strikes before the snapshot is committed: that one is repeated.
    assert read_and_kill(data_dir, commit=False)
    runs = [
        read_and_kill(data_dir, commit=True),
        read_and_kill(data_dir, commit=True),
        read_until_landed(data_dir, *SOME),
    ]
    snapshots = [sum(m.value["op"] == "r" for m in changes(run)) for run in runs]
    assert snapshots[0] > 900
    assert snapshots[1:] == [0, 0]

    state: dict[tuple[str, bytes], dict[str, Any]] = {}
    seen: set[tuple[str, str, int, int]] = set()
    for message in (m for run in runs for m in changes(run)):
        value, key = message.value, message.key or b""
        table, source = value["source"]["table"], value["source"]
        if value["op"] != "r":
            at = (value["op"], source["file"], source["pos"], source["row"])
            if at in seen:
                continue
            seen.add(at)
        # Each change takes up where the one before it left off: none is missing.
        before = None if value["op"] == "r" else state.get((table, key))
        assert value["before"] == before
        if value["after"] is None:
            del state[table, key]
        else:
            state[table, key] = value["after"]
    with closing(SqliteShop(data_dir / "shop.sqlite")) as shop:
        assert state == tables_of(shop)
        assert shop.binlog_size() == 0


def test_positions_increase_in_every_partition(tmp_path: Path) -> None:
    positions: dict[tuple[str, int], list[tuple[str, int, int]]] = defaultdict(list)
    for message in changes(read_until_landed(tmp_path / "shop", *LITTLE)):
        if message.value["op"] != "r":
            positions[message.topic, message.partition].append(message.position)
    assert len(positions) > 20
    for found in positions.values():
        assert found == sorted(found)
        # A changed key is two messages at one place; nothing else shares one.
        assert len(found) - len(set(found)) <= 1


def test_no_personal_value_is_on_any_topic(tmp_path: Path) -> None:
    found = read_until_landed(tmp_path / "shop", *LITTLE)
    everything = b"\n".join(
        part
        for m in found
        for part in (m.key or b"", m.raw or b"", *(bytes(value) for _, value in m.headers))
    )
    planted = set()
    with closing(SqliteShop(tmp_path / "shop" / "shop.sqlite")) as shop:
        for table in ("users", "practitioners"):
            for row in shop.rows(table):
                planted |= {str(row[name]) for name in TABLES[table].personal}
        name = next(shop.rows("products"))["name"]
    assert len(planted) > 1_000
    assert name.encode() in everything
    assert not [value for value in planted if value.encode() in everything]


def test_heartbeats_never_run_ahead_of_what_was_sent(tmp_path: Path) -> None:
    began = time.time_ns() // 1_000_000
    found = read_until_landed(tmp_path / "shop", *LITTLE)
    last = max(m.value["source"]["ts_ms"] for m in changes(found))
    beats = [json.loads(m.raw or b"")["ts_ms"] for m in found if m.topic == HEARTBEAT_TOPIC]
    assert beats
    assert beats[-1] >= began
    assert all(beat <= last or beat >= began for beat in beats)


def test_it_goes_on_live_after_a_restart(tmp_path: Path) -> None:
    data_dir = tmp_path / "shop"
    read_until_landed(data_dir, *LITTLE)
    with running_shop(data_dir, "--pace", "50") as shop:
        reader = Reader(shop.bootstrap_servers)
        found: list[Read] = []
        for _ in patiently():
            found += changes(reader.poll())
            if len(found) >= 30:
                break
        reader.close()
        assert shop.stop() == 0
    now = time.time() * 1000
    assert all(now - 60_000 < m.value["source"]["ts_ms"] <= now for m in found)
    assert {m.value["source"]["file"] for m in found} == {"binlog.000002"}


def test_it_is_ready_at_once_and_stops_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with running_shop(tmp_path / "shop", "--port-file", str(tmp_path / "port")) as shop:
        assert time.monotonic() - began < 5
        assert (tmp_path / "port").read_text() == shop.bootstrap_servers
        shop.process.send_signal(signal.SIGINT)
        assert shop.process.wait(5) == 0
        assert shop.events()[-1] == {"event": "stopped"}


def test_two_shops_do_not_share_a_folder(tmp_path: Path) -> None:
    with running_shop(tmp_path / "shop", *LITTLE):
        second = subprocess.run(
            [*SERVE, "--data-dir", str(tmp_path / "shop")],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert second.returncode == 1
    assert second.stderr.strip() == f"shop: another shop is at work in {tmp_path / 'shop'}"


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = subprocess.run(
        [*SERVE, "--data-dir", str(tmp_path / "file" / "shop")],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("shop: the shop can't work in ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")  # noqa: PTH110
def test_a_full_disk_is_one_clear_sentence(tmp_path: Path) -> None:
    # A limit on the size of files is, to SQLite, a disk without room.
    refused = subprocess.run(
        ["/bin/sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *SERVE, "--data-dir", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert refused.returncode == 1
    assert refused.stderr.startswith("shop: the shop can't work in ")
    assert refused.stderr.count("\n") == 1


def test_it_stops_when_its_parent_is_gone(tmp_path: Path) -> None:
    starts_and_dies = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE);"
        " p.stdout.readline(); print(p.pid)"
    )
    command = [*SERVE, "--data-dir", str(tmp_path / "shop"), "--with-parent"]
    parent = subprocess.run(
        [sys.executable, "-c", starts_and_dies, *command],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    for _ in patiently():
        try:
            os.kill(int(parent.stdout), 0)
        except ProcessLookupError:
            break
        if Path(f"/proc/{int(parent.stdout)}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.02)
