"""Faults on the wire: TCP proxies that parse the protocol, break connections at any message, and log who closed first.

Standard library only. A framer for each protocol splits the bytes into named messages.
"""

from .connection import Connection
from .faults import GARBAGE, WireFault
from .framing import RAW, Framer, Message, Side
from .log import Closed, ClosedBy, Opened, WireLog
from .proxy import PROTOCOLS, Proxy

__all__ = [
    "GARBAGE",
    "PROTOCOLS",
    "RAW",
    "Closed",
    "ClosedBy",
    "Connection",
    "Framer",
    "Message",
    "Opened",
    "Proxy",
    "Side",
    "WireFault",
    "WireLog",
]
