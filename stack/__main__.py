"""`python -m stack fetch` fetches the servers; `python -m stack up` runs them until Ctrl-C."""

import argparse
import signal
import sys
from pathlib import Path
from types import FrameType

from stack.errors import StackError
from stack.fetch import HOME, fetch
from stack.servers import Stack


def main() -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help=f"bring Kafka and Debezium into {HOME.name}/, through Maven")
    up = commands.add_parser("up", help="run MariaDB, Kafka and Connect in the foreground")
    up.add_argument("--folder", type=Path, default=HOME / "run", help="data and logs (%(default)s)")
    arguments = parser.parse_args()
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _interrupt)
    try:
        if arguments.command == "fetch":
            fetch()
        else:
            run_until_interrupted(arguments.folder)
    except StackError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
    return 0


def run_until_interrupted(folder: Path) -> None:
    """Run the stack in `folder` and print how to reach it; ends by KeyboardInterrupt only."""
    print("Starting MariaDB, Kafka and Connect ...", file=sys.stderr)
    with Stack(folder) as stack:
        stack.create_shop_tables()
        stack.start_connector()
        mysql = stack.mysql
        print(
            f"MariaDB  mariadb -h {mysql['host']} -P {mysql['port']} -u {mysql['user']}"
            f" -p{mysql['password']} {mysql['database']}\n"
            f"Kafka    {stack.bootstrap_servers}\n"
            f"Connect  {stack.connect_url}/connectors/shop/status\n"
            f"Logs     {stack.folder}/*.log\n"
            "\n"
            "For the platform, in another terminal:\n"
            f"export KAFKA_BOOTSTRAP_SERVERS={stack.bootstrap_servers}\n"
            "export BI_TOPIC_PREFIX=shop.shop\n"
            "\n"
            "Ctrl-C stops everything.",
            flush=True,
        )
        signal.pause()


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End like Ctrl-C: the servers must not outlive a closed terminal."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
