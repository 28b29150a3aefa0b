"""The faults that a proxy can inject."""

from enum import StrEnum


class WireFault(StrEnum):
    """A fault at one message of a connection.

    REFUSE: the connection is reset, and new connections to the port are refused.
    RESET: both sides get an RST, as after a crash of the machine or the loss of a firewall's table.
    CLOSE: both sides get a FIN, as when a server shuts down or its process is killed.
    BLACK_HOLE: nothing passes any more and no side is notified, as in a network partition or with a paused server.
    TRUNCATE: half of the message passes, then both sides get a FIN.
    GARBAGE: bytes that are not a message pass instead of the message, then nothing any more.
    BYTE_AT_A_TIME: this message and all later ones pass byte by byte. That is correct TCP, and clients must handle it.
    """

    REFUSE = "refuse"
    RESET = "reset"
    CLOSE = "close"
    BLACK_HOLE = "black hole"
    TRUNCATE = "truncate"
    GARBAGE = "garbage"
    BYTE_AT_A_TIME = "byte at a time"


# Not a message in any of the protocols here, and long enough to fill every header, so that no parser waits for more.
# It does not begin with a zero: asyncpg 0.32 takes a zero for "no message yet" and blocks its event loop forever.
GARBAGE = b"\xff garbage \xff\r\n" * 4
