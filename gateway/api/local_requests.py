"""The signs that a request was not sent by a program on this machine, although it arrived on a loopback connection.

Two kinds of requests do that: those that a proxy on this machine forwards, and those of a web page of another site in a
browser on this machine. By DNS rebinding, such a page reaches the gateway under its own host name. The host of a target such as
`http://evil.example/` counts as well: the HTTP server replaces the header Host by it.
"""

import re

from fastapi import Request

from gateway.network.addresses import is_loopback

_PROXY_HEADERS = {"forwarded", "via", "x-real-ip"}
_PROXY_HEADER_PREFIX = "x-forwarded-"
MAX_NAME_LENGTH = 40  # of a header in a response; the client chooses the end of the name
_AUTHORITY = re.compile(r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[0-9a-z.-]+))(?::[0-9]{0,5})?", re.IGNORECASE)


def sign_of_foreign_origin(request: Request) -> str | None:
    """Return what shows that the request comes from another machine or site, such as `the header Via`, or None."""
    if request.scope["http_version"] == "1.0":
        return "HTTP/1.0"  # nginx forwards requests in this version by default, without any other sign
    for name in request.headers:
        if name in _PROXY_HEADERS or name.startswith(_PROXY_HEADER_PREFIX):
            return f"the header {name.title()[:MAX_NAME_LENGTH]}"
    hosts = request.headers.getlist("host")
    if len(hosts) != 1 or not _is_loopback(hosts[0]):
        return "the header Host"
    if not all(map(_is_loopback_origin, request.headers.getlist("origin"))):
        return "the header Origin"
    if "cross-site" in request.headers.getlist("sec-fetch-site"):
        return "the header Sec-Fetch-Site"
    return None


def is_from_this_machine(request: Request) -> bool:
    """Return whether a program on this machine has sent the request, even if other machines may connect, too."""
    return request.client is not None and is_loopback(request.client.host) and not sign_of_foreign_origin(request)


def _is_loopback_origin(origin: str) -> bool:
    """Return whether an origin such as `http://localhost:8000` is on this machine. The origin `null` is not."""
    scheme, _, authority = origin.partition("://")
    return scheme in {"http", "https"} and _is_loopback(authority)


def _is_loopback(authority: str) -> bool:
    """Return whether a host with or without a port is `localhost` or a loopback address."""
    found = _AUTHORITY.fullmatch(authority)
    return found is not None and is_loopback(found["ipv6"] or found["name"])
