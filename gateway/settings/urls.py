"""URLs of servers, validated without showing a part of them: any part may belong to a password that is not encoded."""

import re
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_ENCODING = "percent-encode the password (%40 for @, %2F for /, %3F for ?, %23 for #, %25 for %)"

_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f]")
_INCOMPLETE_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[\w.-]+|\[[\w:.%-]+\]")  # a name or an IPv4 address, or an IPv6 address with its zone


def server_url(*schemes: str) -> AfterValidator:
    """Return a validator that accepts URLs with one of the schemes, a host, and no port or a valid one.

    It rejects a URL whose password contains a special character as it is. Libraries would take the rest of the password
    as the host, connect to it, and show it in their errors.
    """
    return AfterValidator(lambda url: _validated(url, schemes, origin_only=False))


def origin_url(*schemes: str) -> AfterValidator:
    """Return a validator like `server_url`, which also rejects user, path, query and fragment.

    They would have no effect, and httpx shows the whole URL in its errors.
    """
    return AfterValidator(lambda url: _validated(url, schemes, origin_only=True))


def host_and_port(url: SecretStr) -> str:
    """Return the part of a URL that messages may show, without user and password."""
    parts = urlsplit(url.get_secret_value())
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    return f"{host}:{parts.port}" if parts.port else host


def scheme_of(url: SecretStr) -> str:
    return url.get_secret_value().partition(":")[0]


def _validated(url: SecretStr, schemes: tuple[str, ...], *, origin_only: bool) -> SecretStr:
    """Return the URL, or raise a ValueError without a part of it."""
    text = url.get_secret_value()
    if _SPACE_OR_CONTROL.search(text):
        raise ValueError("has a space or a control character: percent-encode it (%20 for a space), or remove it")
    scheme, separator, rest = text.partition("://")
    if not origin_only and separator and _is_ambiguous(rest):
        raise ValueError(f"has a special character that is not encoded: {_ENCODING}")
    if scheme not in schemes or not _is_address(text, origin_only=origin_only):
        raise ValueError(f"should be a URL like {' or '.join(f'{scheme}://host:port' for scheme in schemes)}")
    return url


def _is_ambiguous(rest: str) -> bool:
    """Return whether the text after the scheme may have a password with a special character as it is."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    path = rest.removeprefix(authority)
    user = authority.rpartition("@")[0]
    return (
        "@" in user
        or "@" in path
        or "#" in path
        or _INCOMPLETE_ESCAPE.search(user + path) is not None
        or "[" in user
        or "]" in user
    )


def _is_address(url: str, *, origin_only: bool) -> bool:
    """Return whether the URL has a host, and no port or a valid one, and with `origin_only` nothing else."""
    try:
        parts = urlsplit(url)
        valid = parts.port != 0
    except ValueError:  # its message has a part of the URL
        return False
    host = re.sub(r":\d*\Z", "", parts.netloc.rpartition("@")[2])
    if not valid or not _HOST.fullmatch(host) or not _has_valid_labels(host):
        return False
    return not origin_only or not ("@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment)


def _has_valid_labels(host: str) -> bool:
    """Return whether the name can be resolved: no part between its dots is empty or longer than 63 characters."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True
