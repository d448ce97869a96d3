"""`python -m shop serve`: the simulated pharmacy, its connector and its broker."""

import argparse
import sys
from pathlib import Path

from shop.serve import Options, run


def main() -> int:
    """Read the command line and serve; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shop", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("serve", help="run the shop until Ctrl-C")
    command.add_argument("--data-dir", type=Path, required=True, help="where the shop keeps its data")
    command.add_argument("--seed", type=int, default=Options.seed, help="of a new shop")
    command.add_argument("--history-days", type=int, default=Options.history_days, help="past of a new shop")
    command.add_argument(
        "--group", default=Options.group, help="consumer group whose commits say what has landed"
    )
    command.add_argument("--pace", type=float, default=Options.pace, help="speed of the live shop")
    command.add_argument("--no-live", dest="live", action="store_false", help="rest when the history is told")
    command.add_argument("--port-file", type=Path, help="file to write the broker's address to")
    command.add_argument("--with-parent", action="store_true", help="stop when the starting process is gone")
    return run(Options(**vars(parser.parse_args())))


if __name__ == "__main__":
    sys.exit(main())
