"""The kernel's table of TCP connections: those of this machine, of all processes."""

import ipaddress
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

_ESTABLISHED = "01"


def established(family: socket.AddressFamily) -> Iterator[tuple[str, int, str]]:
    """Yield the remote address, the remote port and the inode of the local socket of each established connection."""
    for row in _rows("tcp6" if family is socket.AF_INET6 else "tcp"):
        if row[3] == _ESTABLISHED:
            yield *_parse_address(row[2]), row[9]


def _rows(table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]]
    except FileNotFoundError:
        return []  # a kernel without IPv6


def _parse_address(text: str) -> tuple[str, int]:
    """Parse `0100007F:1538` (127.0.0.1, 5432): words of four bytes, in the byte order of the machine."""
    words, port = text.split(":")
    raw = b"".join(int(words[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(words), 8))
    address = ipaddress.ip_address(raw)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address), int(port, 16)
