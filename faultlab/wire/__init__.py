"""Every wire message: proxies that understand what passes through them, break it where one asks, and tell who closed first.

Standard library only. A framer for each protocol says where a message ends and what it is called.
"""

from faultlab.wire.connection import Connection
from faultlab.wire.faults import GARBAGE, WireFault
from faultlab.wire.framing import RAW, Framer, Message, Side
from faultlab.wire.log import Closed, ClosedBy, Opened, WireLog
from faultlab.wire.proxy import PROTOCOLS, Proxy

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
