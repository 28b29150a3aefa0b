"""The URL of the database, parsed: the address, the credentials, and the options as SQLAlchemy, asyncpg and libpq name them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from gateway.network.tls import TLSFiles

DEFAULT_PORT = 5432

_Timeout = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0)]

PreparedStatements = Literal["named", "none"]


class DatabaseOptions(BaseModel):
    """The options that a URL can have.

    libpq's modes `allow` and `prefer` are missing: they connect without TLS if the server declines it, so that they protect
    against no attacker.

    Attributes:
        ssl: the use of TLS. With any of the files it is `verify-full` by default, otherwise `disable`.
        sslrootcert: the file with the certificate authorities to trust; those of the system by default. With it, `require`
            is the same as `verify-ca`, as with libpq.
        sslcert: the file with the certificate of this client.
        sslkey: the file with its private key.
        prepared_statements: for a server behind a connection pooler: whether prepared statements have names.
        statement_cache_size: the size of asyncpg's cache for each connection. Zero is the same as `prepared_statements=none`.
        prepared_statement_cache_size: the same for SQLAlchemy's cache.
        connect_timeout: seconds for one connection.
        command_timeout: seconds for one statement.
        target_session_attrs: the kind of server that is accepted.
        application_name: the name of the connections in `pg_stat_activity`.
        options: command-line options for the server's session, such as `-c search_path=gateway`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    ssl: Literal["disable", "require", "verify-ca", "verify-full"] | None = Field(
        None, validation_alias=AliasChoices("ssl", "sslmode")
    )
    sslrootcert: Path | None = None
    sslcert: Path | None = None
    sslkey: Path | None = None
    prepared_statements: PreparedStatements | None = None
    statement_cache_size: _Count | None = None
    prepared_statement_cache_size: _Count | None = None
    max_cached_statement_lifetime: _Count | None = None
    max_cacheable_statement_size: _Count | None = None
    connect_timeout: _Timeout | None = Field(None, validation_alias=AliasChoices("connect_timeout", "timeout"))
    command_timeout: _Timeout | None = None
    target_session_attrs: Literal["any", "primary", "standby", "prefer-standby", "read-write", "read-only"] | None = (
        None
    )
    application_name: Annotated[str, Field(min_length=1)] | None = None
    options: Annotated[str, Field(min_length=1)] | None = None

    @property
    def tls_files(self) -> TLSFiles:
        return TLSFiles(self.sslrootcert, self.sslcert, self.sslkey)

    @property
    def uses_tls(self) -> bool:
        return self.ssl != "disable" if self.ssl else self.tls_files != TLSFiles()

    @model_validator(mode="after")
    def _check_combination(self) -> Self:
        if self.ssl == "disable" and self.tls_files != TLSFiles():
            raise ValueError("has ssl=disable, although files for TLS are set: remove the option or the files")
        if self.ssl == "verify-ca" and self.sslrootcert is None:
            raise ValueError(
                "has ssl=verify-ca without sslrootcert or GATEWAY_DATABASE__CA_FILE. Any host could have a certificate of "
                "the public authorities: name your own, or use verify-full"
            )
        return self


_OTHER_NAMES = {"sslmode": "ssl", "timeout": "connect_timeout"}
_NAMES = ", ".join(sorted({*DatabaseOptions.model_fields, *_OTHER_NAMES}))


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """The parts of a URL. A user or database that is missing in it is None."""

    host: str
    port: int
    user: str | None
    password: str | None = field(repr=False)
    database: str | None
    options: DatabaseOptions

    @property
    def location(self) -> str:
        """The host and port, as messages may show them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_database_url(url: str) -> DatabaseURL:
    """Parse a URL.

    Raises:
        ValueError: it is invalid. The message has one line, which names the option and contains no value.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or DEFAULT_PORT
    except ValueError:
        raise ValueError("should be a URL like postgresql+asyncpg://user:password@host:port/database") from None
    if "@" in parts.path + parts.query or parts.fragment:
        raise ValueError(
            "has @ or # after the host: write @ as %40, / as %2F, ? as %3F and # as %23 in user and password"
        )
    return DatabaseURL(
        host=parts.hostname or "localhost",
        port=port,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        database=unquote(parts.path[1:]) or None,
        options=_parse_options(parts.query),
    )


def add_options(url: str, options: dict[str, str]) -> str:
    """Return the URL with more options. They replace options of the same name."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in options]
    return parts._replace(query=urlencode([*kept, *options.items()])).geturl()


def _parse_options(query: str) -> DatabaseOptions:
    values: dict[str, str] = {}
    fields: set[str] = set()
    for name, value in parse_qsl(query, keep_blank_values=True):
        field_name = _OTHER_NAMES.get(name, name)
        if field_name in fields:
            raise ValueError(f"has the option {name!r} twice")
        fields.add(field_name)
        values[name] = value
    try:
        return DatabaseOptions.model_validate(values)
    except ValidationError as invalid:
        error = invalid.errors(include_url=False, include_input=False)[0]
    if not error["loc"]:
        raise ValueError(error["msg"].removeprefix("Value error, "))
    option = error["loc"][0]
    if error["type"] == "extra_forbidden":
        raise ValueError(f"has an unknown option {option!r}: the options are {_NAMES}")
    raise ValueError(f"option {option} {error['msg'].removeprefix('Input ')}")
