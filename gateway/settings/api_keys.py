"""API keys in the settings: `name:secret`, or `name:sha256:` and the hash of the secret.

A slow hash would protect short passwords of people. The secret of an API key is long and random, so that it cannot be found by
trying, whatever the hash. And a slow hash would let strangers use up the CPU with wrong keys.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from pydantic import SecretBytes

MIN_SECRET_LENGTH = 16  # characters

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SECRET = re.compile(r"[!-~]+")  # an Authorization header carries it unchanged
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key of a client. `name` may be shown, `digest` is the SHA-256 of the secret."""

    name: str
    digest: SecretBytes


def parse_api_key(text: object) -> ApiKey:
    """Read an item of a list of API keys.

    Raises:
        ValueError: it is invalid. The message has no part of it.
    """
    if isinstance(text, ApiKey):
        return text
    if not isinstance(text, str):
        raise ValueError('should be a text, such as "alice:SECRET"')  # noqa: TRY004 - pydantic expects ValueError
    name, colon, secret = text.partition(":")
    if not colon:
        raise ValueError('should begin with a name for the key and a colon, such as "alice:SECRET"')
    if not is_key_name(name):
        raise ValueError(
            "the name before the colon should be at most 64 of a-z, 0-9, dot, underscore and hyphen, and begin with a letter "
            "or digit"
        )
    if secret.lower().startswith(_HASH_PREFIX):
        digest = secret[len(_HASH_PREFIX) :]
        if not _HASH.fullmatch(digest):
            raise ValueError("the hash after sha256: should be 64 hexadecimal digits")
        return ApiKey(name, SecretBytes(bytes.fromhex(digest)))
    if not _SECRET.fullmatch(secret) or len(secret) < MIN_SECRET_LENGTH:
        raise ValueError(
            f"the secret after the name should be visible ASCII characters, at least {MIN_SECRET_LENGTH} and no space"
        )
    return ApiKey(name, SecretBytes(sha256(secret.encode()).digest()))


def is_key_name(text: str) -> bool:
    """Return whether a text may be the name of an API key."""
    return _NAME.fullmatch(text) is not None


def reject_shared_secrets(keys: tuple[ApiKey, ...]) -> tuple[ApiKey, ...]:
    """Return the keys.

    Raises:
        ValueError: two of them have the same secret, so that their clients could not be distinguished.
    """
    numbers: dict[bytes, int] = {}
    for number, key in enumerate(keys, start=1):
        first = numbers.setdefault(key.digest.get_secret_value(), number)
        if first != number:
            raise ValueError(f"items {first} and {number} have the same secret: give each its own, or remove one")
    return keys


def find_api_key(secret: str, keys: Iterable[ApiKey]) -> ApiKey | None:
    """Return the key with this secret, in a time that depends neither on which one it is nor on where others differ."""
    digest = sha256(secret.encode()).digest()
    matching = [key for key in keys if compare_digest(digest, key.digest.get_secret_value())]
    return matching[0] if matching else None
