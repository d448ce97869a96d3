"""What the system (Linux) tells about processes: which are ours, and on which addresses they listen."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from pathlib import Path

Address = tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]

_PROC = Path("/proc")
_LISTEN = "0A"


def with_environment(variable: str, value: str) -> dict[int, str]:
    """Return the processes, by id with their command, that were started with this environment.

    A child inherits it, so that none is missed whose parent is gone.
    """
    wanted = f"{variable}={value}".encode()
    found: dict[int, str] = {}
    for process in _PROC.glob("[0-9]*"):
        try:
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # ended meanwhile
    return found


def listening(processes: Collection[int]) -> set[Address]:
    """Return the TCP addresses and ports on which any of these processes accepts connections."""
    sockets = {target for process in processes for target in _open_files(process)}
    found: set[Address] = set()
    for table in ("tcp", "tcp6"):
        for line in (_PROC / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in sockets:
                address, port = fields[1].split(":")
                found.add((_address(address), int(port, 16)))
    return found


def _open_files(process: int) -> list[str]:
    try:
        return [str(file.readlink()) for file in (_PROC / str(process) / "fd").iterdir()]
    except OSError:
        return []  # ended meanwhile


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an address as the kernel prints it: words of 32 bits, each in the machine's byte order."""
    raw = bytes.fromhex(text)
    return ipaddress.ip_address(b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4)))
