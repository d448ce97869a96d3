"""MariaDB as the shop's database, with the binlog that Debezium needs."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pymysql  # type: ignore[import-untyped]

from stack.errors import StackError
from stack.fetch import find_tool
from stack.process import LOCALHOST, Server

DATABASE = "shop"
SHOP_USER, SHOP_PASSWORD = "shop", "shop"
DEBEZIUM_USER, DEBEZIUM_PASSWORD = "debezium", "debezium"

GRANTS = Path(__file__).with_name("grants-mariadb.sql")

# Run at each start, a statement per line, before GRANTS. Outside of what the connector captures
# is the database `stack`: see Stack.wait_delivered.
INIT_SQL = f"""\
SET sql_log_bin = 0;
CREATE DATABASE IF NOT EXISTS {DATABASE};
CREATE USER IF NOT EXISTS '{SHOP_USER}'@'%' IDENTIFIED BY '{SHOP_PASSWORD}';
GRANT ALL ON *.* TO '{SHOP_USER}'@'%';
CREATE DATABASE IF NOT EXISTS stack;
CREATE TABLE IF NOT EXISTS stack.nudge (id int PRIMARY KEY, n bigint);
INSERT IGNORE INTO stack.nudge VALUES (1, 0);
"""


def connect_parameters(port: int) -> dict[str, Any]:
    """Return what pymysql.connect wants to reach the shop's database as the shop."""
    return {
        "host": LOCALHOST,
        "port": port,
        "user": SHOP_USER,
        "password": SHOP_PASSWORD,
        "database": DATABASE,
        "charset": "utf8mb4",
    }


def mariadb_server(folder: Path, port: int) -> Server:
    """Return a MariaDB server on `port` with its data in `folder`, made if it is not there.

    Raises StackError if the data folder cannot be made.
    """
    data = folder / "mariadb"
    # As root, MariaDB refuses to run unless told so; another user may not even read our folder.
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    if not data.exists():
        install = subprocess.run(
            [
                find_tool("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                *as_root,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if install.returncode != 0:
            raise StackError(f"mariadb-install-db failed:\n{install.stdout[-4000:]}")
    init = folder / "mariadb-init.sql"
    init.write_text(INIT_SQL + GRANTS.read_text())
    command = [
        find_tool("mariadbd"),
        "--no-defaults",
        *as_root,
        f"--datadir={data}",
        f"--bind-address={LOCALHOST}",
        f"--port={port}",
        "--socket=mariadb.sock",  # relative to the data: a Unix socket's path is at most 107 bytes
        "--server-id=1",
        "--log-bin=binlog",
        "--binlog-format=ROW",
        "--binlog-row-image=FULL",
        "--character-set-server=utf8mb4",
        "--default-time-zone=+00:00",
        "--skip-name-resolve",
        "--innodb-flush-log-at-trx-commit=2",
        f"--init-file={init}",
    ]

    def is_ready() -> bool:
        try:
            pymysql.connect(**connect_parameters(port)).close()
        except pymysql.Error:
            return False
        return True

    return Server("mariadb", command, folder=folder, is_ready=is_ready)
