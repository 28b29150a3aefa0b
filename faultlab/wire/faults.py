"""What can go wrong on a wire."""

from enum import StrEnum


class WireFault(StrEnum):
    REFUSE = "refuse"
    """The connection is reset, and from then on nobody listens on the port."""
    RESET = "reset"
    """RST to both sides, as when a machine crashes and comes back, or a firewall has lost its table."""
    CLOSE = "close"
    """A clean end (FIN), as when a server shuts down in order, or its process is killed."""
    BLACK_HOLE = "black hole"
    """Nothing passes any more and nobody says so: a network that is cut, or a server that is stopped."""
    TRUNCATE = "truncate"
    """Half of the message, and then a clean end."""
    GARBAGE = "garbage"
    """Bytes that are no message instead of the message, and then a black hole."""
    BYTE_AT_A_TIME = "byte at a time"
    """This message and all after it arrive byte by byte. Nothing is wrong with that, and it has to be survived."""


GARBAGE = b"\xff garbage \xff\r\n" * 4
"""No message in any of the protocols here, and long enough that nobody has to wait for the rest of a header.

It does not begin with a zero: asyncpg 0.32 takes that for "no message yet", and its event loop never runs again.
"""
