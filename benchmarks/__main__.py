"""`python -m benchmarks` runs every part and keeps the figures; with a part's name, that part only."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from benchmarks import drain, growth, idle, machine, memory, promptness, rebuild
from benchmarks.broker import Broker, broker
from benchmarks.figures import Figures
from benchmarks.results import save

console = Console(width=None if sys.stdout.isatty() else 120)
Arguments = argparse.Namespace


def run_drain(a: Arguments) -> tuple[Figures, list[Table | None]]:
    with _broker() as at:
        found = drain.measure(
            at, console, orders=a.events, naive=min(a.naive_events, a.events), repetitions=a.repetitions
        )
    return found, [drain.table(found), drain.targets(found)]


def run_memory(a: Arguments) -> tuple[Figures, list[Table | None]]:
    with _broker() as at:
        found = memory.measure(at, console, backlogs=a.backlogs)
    return found, [memory.table(found), memory.targets(found)]


def run_growth(a: Arguments) -> tuple[Figures, list[Table | None]]:
    found = growth.measure(console, small=a.small, large=a.large, batches=a.batches, series=a.series)
    return found, [growth.table(found), growth.targets(found)]


def run_rebuild(a: Arguments) -> tuple[Figures, list[Table | None]]:
    found = rebuild.measure(console, orders=a.orders, repetitions=a.repetitions)
    return found, [rebuild.table(found), rebuild.targets(found)]


def run_idle(a: Arguments) -> tuple[Figures, list[Table | None]]:
    with _broker() as at:
        found = idle.measure(at, console, seconds=a.seconds, orders=a.landed)
    return found, [idle.table(found), idle.targets(found)]


def run_promptness(a: Arguments) -> tuple[Figures, list[Table | None]]:
    with _broker() as at:
        found = {
            mode: promptness.measure(at, console, mode, events=a.events, orders=a.landed) for mode in a.modes
        }
    return found, [promptness.table(list(found.values())), promptness.targets(list(found.values()))]


PARTS: dict[str, Callable[[Arguments], tuple[Figures, list[Table | None]]]] = {
    "drain": run_drain,
    "memory": run_memory,
    "growth": run_growth,
    "rebuild": run_rebuild,
    "idle": run_idle,
    "promptness": run_promptness,
}


def main() -> int:
    """Run what was asked for; return 1 where a part failed."""
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    try:
        return _run(_parser().parse_args())
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130


def _run(arguments: Arguments) -> int:
    failed = False
    for part in [arguments.part] if arguments.part else PARTS:
        options = arguments if arguments.part else _parser().parse_args([part, "--save"])
        try:
            figures, tables = PARTS[part](options)
        except Exception:  # the other parts take long, and are none the worse for it
            traceback.print_exc()
            failed = True
            continue
        for table in filter(None, tables):
            console.print(table)
        if options.save:
            save(part, figures)
    described = machine.describe()
    console.print(machine.hardware(described), machine.versions(described), sep="\n")
    return int(failed)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End like Ctrl-C: the broker must not outlive a closed terminal."""
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parts = parser.add_subparsers(dest="part", metavar="PART")

    def part(name: str, said: str | None) -> argparse.ArgumentParser:
        added = parts.add_parser(
            name,
            help=(said or "").partition("\n")[0],
            description=said,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        added.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results/")
        return added

    one = part("drain", drain.__doc__)
    one.add_argument("--events", type=int, default=drain.ORDERS, help="orders in the backlog")
    one.add_argument(
        "--naive-events", type=int, default=drain.NAIVE_ORDERS, help="orders for the Python loop"
    )
    one.add_argument("--repetitions", type=int, default=3, help="of each contender")
    one = part("memory", memory.__doc__)
    one.add_argument("--backlogs", type=int, nargs="+", default=memory.BACKLOGS, help="orders")
    one = part("growth", growth.__doc__)
    one.add_argument("--small", type=int, default=growth.SMALL, help="orders landed before")
    one.add_argument("--large", type=int, default=growth.LARGE, help="orders landed before, the other time")
    one.add_argument("--batches", type=int, default=growth.BATCHES, help="of 100 events, on each")
    one.add_argument("--series", type=int, default=growth.SERIES, help="batches of 5 events, one by one")
    one = part("rebuild", rebuild.__doc__)
    one.add_argument("--orders", type=int, default=rebuild.ORDERS, help="in history")
    one.add_argument("--repetitions", type=int, default=rebuild.REPETITIONS, help="of each way")
    one = part("idle", idle.__doc__)
    one.add_argument("--seconds", type=float, default=idle.SECONDS, help="to watch for")
    one.add_argument("--landed", type=int, default=promptness.LANDED_ORDERS, help="orders landed before")
    one = part("promptness", promptness.__doc__)
    one.add_argument("--events", type=int, help="orders in each mode; without, 100, and 30 lone ones")
    one.add_argument(
        "--modes", nargs="+", choices=list(promptness.MODES), default=list(promptness.MODES), help="which"
    )
    one.add_argument("--landed", type=int, default=promptness.LANDED_ORDERS, help="orders landed before")
    return parser


@contextmanager
def _broker() -> Iterator[Broker]:
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        broker(Path(folder)) as running,
    ):
        yield running


if __name__ == "__main__":
    sys.exit(main())
