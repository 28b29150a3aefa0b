"""Connections to other machines without TLS. Anyone in the network between can read the passwords and the data."""

from urllib.parse import urlsplit

from pydantic import SecretStr

from gateway.network.addresses import is_loopback
from gateway.network.database_url import parse_database_url
from gateway.settings import TLS_SCHEMES, ServerSettings, Settings, variable_name
from gateway.settings.urls import scheme_of


def plaintext_warnings(settings: Settings) -> list[str]:
    """Return a line for each server on another machine without TLS, unless the settings allow that.

    The configured host decides: `localhost` and loopback addresses are on this machine, all other names are not.
    """
    if settings.allow_plaintext:
        return []
    groups = {name: getattr(settings, name) for name in type(settings).model_fields}
    return [
        f"{variable_name(name, group.location_field)}: the connection to {group.location} is not encrypted: {advice}, or set "
        "GATEWAY_ALLOW_PLAINTEXT=true if the network is private"
        for name, group in groups.items()
        if isinstance(group, ServerSettings)
        and (advice := _advice(name, getattr(group, group.location_field), settings))
    ]


def _advice(name: str, url: SecretStr, settings: Settings) -> str | None:
    """Return how to turn TLS on, or None if it is on or the server is on this machine."""
    if is_loopback(urlsplit(url.get_secret_value()).hostname or "localhost"):
        return None
    if name == "database":
        options = parse_database_url(settings.database.complete_url.get_secret_value()).options
        return None if options.uses_tls else "set GATEWAY_DATABASE__CA_FILE, or add ?ssl=verify-full to the URL"
    tls_scheme = TLS_SCHEMES.get(scheme_of(url))
    return f"use {tls_scheme}://" if tls_scheme else None
