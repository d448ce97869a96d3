"""`pharmacy-bi`: the platform from the terminal."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import wraps
from typing import Any, ParamSpec

import click
import duckdb
from rich.markup import escape

from bi_assets import __version__, running
from bi_assets import status as state
from bi_assets.demo import demo as run_demo
from bi_assets.errors import UserError
from bi_assets.micro_batch import sweep as run_sweep
from bi_assets.micro_batch import sync as run_sync
from bi_assets.operations import verify_shop
from bi_assets.operations.erase import erase
from bi_assets.operations.quarantine import replay, show
from bi_assets.operations.rewind import rewind
from bi_assets.operations.verify import verify
from bi_assets.outputs.preview import first_results
from bi_assets.platform import warehouse
from bi_assets.settings import Settings
from bi_assets.sizes import human
from bi_assets.terminal import console, landing_progress, print_table
from bi_assets.warehouse import Warehouse

P = ParamSpec("P")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")


def told_plainly(command: Callable[P, None]) -> Callable[P, None]:
    """Make a command end with one clear sentence, and exit code 1, where the user can mend it."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except UserError as error:
            raise click.ClickException(str(error)) from error
        except (OSError, duckdb.Error) as error:
            if "No space left" in str(error):
                raise click.ClickException(
                    "The disk is full: free some room where BI_DATA_DIR is, and run this again; "
                    "nothing that had landed is lost."
                ) from error
            if isinstance(error, OSError) and error.filename:
                raise click.ClickException(f"{error.filename}: {error.strerror}.") from error
            raise

    return run


@click.group()
@click.version_option(__version__)
def main() -> None:
    """Business intelligence in near real time: Kafka to DuckDB marts, on Dagster.

    Settings are environment variables (or lines of a .env file): KAFKA_BOOTSTRAP_SERVERS,
    BI_DATA_DIR and others; the README lists them.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)


@main.command()
@as_json
@told_plainly
def sync(as_json: bool) -> None:
    """Land everything that Kafka has now, refresh the marts, publish, exit."""
    platform = warehouse(Settings.from_environment())
    with landing_progress(quiet=as_json) as told:
        outcome = run_sync(platform, told)
    counts = {name: sum(batch.counts[name] for batch in outcome.landed) for name in
              ("messages", "landed", "duplicates", "tombstones", "quarantined", "erased")}  # fmt: skip
    result = {
        **counts,
        "refreshed": {r.mart.name: {"rows": r.rows, "days": None if r.days is None else len(r.days)}
                      for r in outcome.refreshed},
        "published": str(outcome.published.path) if outcome.published else None,
    }  # fmt: skip
    if as_json:
        _print_json(result)
        return
    console.print(", ".join(f"{n:,} {name}" for name, n in counts.items() if n or name == "messages"))
    for found in first_results(platform.settings.published_file):
        print_table(found.title, found.columns, found.rows)
    console.print(f"published: {result['published']}")


@main.command()
@as_json
@told_plainly
def status(as_json: bool) -> None:
    """Tell whether all is well; exit code 1 where it is not."""
    found = state.status(warehouse(Settings.from_environment()))
    if as_json:
        _print_json(found)
    else:
        console.print(f"broker {found['broker']}   data {found['data_dir']}")
        console.print(
            f"complete through {found['complete_through'] or 'unknown'} (UTC)   "
            f"as of {found['as_of'] or 'unknown'}"
        )
        if published := found["published"]:
            console.print(
                f"published {published['published_at']} (UTC) in {published['seconds']} s, {published['how']}"
            )
        console.print("on disk: " + ", ".join(f"{name} {human(n)}" for name, n in found["bytes"].items()))
        _print_dicts("Source tables", found["tables"])
        _print_dicts("Marts", found["marts"])
        if found["schema_drift"]:
            _print_dicts(
                "Columns that no contract names (not stored), or that are gone", found["schema_drift"]
            )
        if found["outside_partitions"]:
            console.print(f"{found['outside_partitions']} orders lie outside the partitions (BI_FIRST_DATE).")
        for note in found["notes"]:
            console.print(note)
        for problem in found["problems"]:
            console.print(f"[red]![/red] {problem}")
        if found["ok"]:
            console.print("[green]all is well[/green]")
    sys.exit(0 if found["ok"] else 1)


@main.command()
@click.argument("order_id", type=int)
@as_json
@told_plainly
def explain(order_id: int, as_json: bool) -> None:
    """Show which events made an order's row what it is, and what it was before."""
    found = state.explain(warehouse(Settings.from_environment()), order_id)
    if as_json:
        _print_json(found)
        return
    _print_dicts("The row", [found["row"]] if found["row"] else [], upright=True)
    _print_dicts("Events of the order, as they landed", found["order_events"], upright=True)
    _print_dicts(
        "Versions of its patient (in_force: when it was ordered)", found["patient_versions"], upright=True
    )
    _print_dicts("Versions of its items", found["item_versions"], upright=True)


@main.group()
def quarantine() -> None:
    """Messages that could not land."""


@quarantine.command("list")
@as_json
@told_plainly
def quarantine_list(as_json: bool) -> None:
    """List the messages in quarantine, with cause and what to do."""
    rows = state.quarantined(warehouse(Settings.from_environment()))
    if as_json:
        _print_json(rows)
    elif rows:
        to_do = dict.fromkeys(row.pop("what_to_do") for row in rows)  # most often the same for all
        _print_dicts("Quarantine", rows)
        for sentence in to_do:
            console.print(sentence, markup=False)
    else:
        console.print("Nothing is in quarantine.")


@main.command()
@click.argument("table")
@click.option("--apply", is_flag=True, help="Delete them here, too, as of the snapshot.")
@as_json
@told_plainly
def sweep(table: str, apply: bool, as_json: bool) -> None:
    """List the rows of TABLE that its newest snapshot no longer holds."""
    found = run_sweep(warehouse(Settings.from_environment()), table, apply=apply)
    rows = found.rows if found else []
    if as_json:
        _print_json({"taken_at": found.taken_at if found else None, "rows": rows, "applied": apply})
    elif not found or not rows:
        console.print(f"Every row of {table} that is known is in its newest snapshot, or there was one only.")
    else:
        what = "deleted" if apply else "not in"
        _print_dicts(f"Rows of {table} {what}: snapshot of {found.taken_at} (UTC)", rows)
        if not apply:
            console.print(f"`pharmacy-bi sweep {table} --apply` deletes them here, too.")


@quarantine.command("show")
@click.argument("place")
@as_json
@told_plainly
def quarantine_show(place: str, as_json: bool) -> None:
    """Show a message in quarantine: where it is, what is wrong, and what it says, personal data masked.

    PLACE is TABLE/PARTITION/OFFSET, such as orders/0/42.
    """
    found = show(warehouse(Settings.from_environment()), place)
    if as_json:
        _print_json(found)
        return
    message = found.pop("message")
    _print_dicts("In quarantine", [found], upright=True)
    console.print(message if isinstance(message, str) else json.dumps(message, indent=2), markup=False)


@quarantine.command("replay")
@click.argument("places", nargs=-1, metavar="[PLACE]...")
@as_json
@told_plainly
def quarantine_replay(places: tuple[str, ...], as_json: bool) -> None:
    """Try to land the messages in quarantine again: all, or those at these places.

    A PLACE is TABLE/PARTITION/OFFSET, such as orders/0/42. What lands leaves quarantine.
    """
    done = replay(warehouse(Settings.from_environment()), places)
    if as_json:
        _print_json(asdict(done))
        return
    console.print(
        f"{done.read:,} read again, {done.landed:,} landed, {done.still_quarantined:,} still in quarantine, "
        f"{len(done.lost):,} lost{_kept_out(done.erased)}"
    )
    for place, why in done.lost.items():
        console.print(f"[red]![/red] {place} is lost: {why}. Snapshot its row again at the connector.")


def _kept_out(erased: int) -> str:
    return f", {erased:,} kept out, of erased patients" if erased else ""


@main.command("rewind")
@click.option("--to", required=True, metavar="TIME|OFFSETS", help="Where to begin; see above.")
@as_json
@told_plainly
def rewind_command(to: str, as_json: bool) -> None:
    """Read a range of Kafka again, and replace what it left in the change logs.

    TIME is that of the change at the shop, such as 2026-05-01T12:00 (UTC) or 2026-05-01T12:00+02:00;
    OFFSETS are such as orders/0:1200,users/0:35. What Kafka no longer has stays as it is.
    """
    with landing_progress(quiet=as_json) as told:
        done = rewind(warehouse(Settings.from_environment()), to, told)
    if as_json:
        _print_json(asdict(done))
        return
    console.print(
        f"{done.read:,} read again: {done.replaced:,} rows replaced, {done.landed:,} new, "
        f"{done.quarantined:,} in quarantine{_kept_out(done.erased)}"
    )
    for where, offset in done.begins.items():
        gone = done.gone.get(where, 0)
        kept = f"; Kafka no longer has {gone:,} of its offsets, what they left stays" if gone else ""
        console.print(f"{where}: from {offset:,}{kept}")
    if done.refreshed:
        console.print("refreshed: " + ", ".join(done.refreshed))


@main.command("verify")
@click.option(
    "--shop", is_flag=True, help="First, compare with the shop's own tables, and land what differs."
)
@click.option(
    "--table", "tables", multiple=True, metavar="TABLE", help="With --shop: this table only; again for more."
)
@click.option(
    "--signal-topic", help="With --shop: signal.kafka.topic of the connector, if not PREFIX.signals."
)
@click.option("--yes", is_flag=True, help="With --shop: do not ask.")
@as_json
@told_plainly
def verify_command(
    shop: bool, tables: tuple[str, ...], signal_topic: str | None, yes: bool, as_json: bool
) -> None:
    """Compute everything from the change logs again, and compare; exit code 1 where anything differs."""
    platform = warehouse(Settings.from_environment())
    compared = _compare_with_shop(platform, tables, signal_topic, yes=yes, quiet=as_json) if shop else None
    found = verify(platform)
    ok = found.ok and (compared is None or compared.ok)
    if as_json:
        told: dict[str, Any] = {"ok": ok}
        if compared:
            told["shop"] = asdict(compared) | {"differences": compared.differences, "ok": compared.ok}
        _print_json(asdict(found) | told)
        sys.exit(0 if ok else 1)
    if compared:
        _print_dicts("At the shop", [{"table": table, **n} for table, n in compared.tables.items()])
        _print_found(compared.differences, compared.not_compared)
    _print_found(found.differences, found.not_compared)
    console.print(f"{found.rows:,} rows of {found.tables} tables compared")
    if found.ok:
        console.print("[green]everything is as the change logs say[/green]")
    if compared and compared.ok:
        console.print("[green]everything that was compared is as the shop says[/green]")
    sys.exit(0 if ok else 1)


def _compare_with_shop(
    platform: Warehouse, tables: Sequence[str], signal_topic: str | None, *, yes: bool, quiet: bool
) -> verify_shop.Compared:
    """State the load, and go on where that is wanted."""
    load = verify_shop.load_of(platform, tables)
    if not yes and not sys.stdin.isatty():
        raise UserError(f"{load} Run it with --yes to go on.")
    click.echo(str(load), err=True)
    if not yes:
        click.confirm("Go on?", abort=True, err=True)
    with landing_progress(quiet=quiet) as told:
        return verify_shop.compare(platform, load, signal_topic, told)


def _print_found(differences: Sequence[str], not_compared: Sequence[str]) -> None:
    for sentence in differences:
        console.print("[red]![/red]", escape(sentence))
    for note in not_compared:
        console.print(note, markup=False)


@main.command("erase")
@click.argument("patient_id", type=click.IntRange(1, 2**63 - 1))
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@told_plainly
def erase_command(patient_id: int, yes: bool, as_json: bool) -> None:
    """Remove a patient from every file, and keep them out; prints the receipt.

    There is no way back: it asks first, unless told --yes or --json.
    """
    if not yes and not as_json:
        click.confirm(
            f"Patient {patient_id} is removed from every file and kept out, for good. Go on?",
            abort=True,
            err=True,
        )
    receipt = erase(warehouse(Settings.from_environment()), patient_id)
    if as_json:
        _print_json(receipt)
        return
    console.print(f"erased at {receipt['erased_at']} (UTC); token {receipt['token']}")
    if receipt["note"]:
        console.print(receipt["note"])
    if receipt["removed"]:
        _print_dicts("Removed", receipt["removed"])
    for title, name in (("Rewritten", "files"), ("Beyond reach", "beyond_reach")):
        console.print(f"[bold]{title}[/bold]")
        for line in receipt[name]:
            console.print(f"- {line}")


port = click.option("--port", default=3000, show_default=True, help="Port of the Dagster UI, on loopback.")


@main.command()
@port
@told_plainly
def up(port: int) -> None:
    """Start Dagster (code server, web UI, daemon) against the configured broker; Ctrl-C stops it."""
    sys.exit(running.up(Settings.from_environment(), port))


@main.command()
@port
@click.option("--history-days", default=900, show_default=True, help="Days of history the shop has.")
@told_plainly
def demo(port: int, history_days: int) -> None:
    """Start an embedded broker, a simulated shop and Dagster in this terminal; Ctrl-C stops all."""
    sys.exit(run_demo(port, history_days))


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, default=str, indent=2))


def _print_dicts(title: str, rows: Sequence[Mapping[str, Any]], *, upright: bool = False) -> None:
    """Print rows as a table; `upright` puts one row's columns under one another."""
    if upright:
        names = list(rows[0]) if rows else []
        print_table(
            title, ["", *map(str, range(1, len(rows) + 1))], [[n, *(r[n] for r in rows)] for n in names]
        )
    else:
        print_table(title, list(rows[0]) if rows else [], [list(row.values()) for row in rows])
