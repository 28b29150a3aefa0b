"""The settings: environment variables that begin with `GATEWAY_`, or files of the same name in /run/secrets."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from gateway.network.amqp_url import amqp_options
from gateway.network.database_url import PreparedStatements, add_options, parse_database_url
from gateway.network.redis_url import RedisURL, parse_redis_url
from gateway.network.tls import TLSFiles
from gateway.settings.api_keys import ApiKey, parse_api_key, reject_shared_secrets
from gateway.settings.urls import host_and_port, origin_url, scheme_of, server_url
from gateway.settings.variables import (
    PREFIX,
    InvalidSettingsError,
    describe_unknown_names,
    read_texts,
    variable_name,
)

__all__ = [
    "ApiKey",
    "DatabaseSettings",
    "HttpSettings",
    "InvalidSettingsError",
    "ModelSettings",
    "RabbitMQSettings",
    "RedisSettings",
    "ResourceSettings",
    "ServerSettings",
    "Settings",
    "host_and_port",
    "read_settings",
    "unknown_settings",
    "variable_name",
]

TLS_SCHEMES = {"http": "https", "redis": "rediss", "amqp": "amqps"}  # by the schemes without TLS

SHIPPED_MODEL = Path(__file__).parents[1] / "assets" / "wet_tomorrow.onnx"

_ORIGIN = re.compile(r"(?:http(?!.*:80\Z)|https(?!.*:443\Z))://(?:[a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::[1-9][0-9]{0,4})?")

Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]
ApiKeys = Annotated[
    tuple[Annotated[ApiKey, BeforeValidator(parse_api_key)], ...], NoDecode, AfterValidator(reject_shared_secrets)
]


def _origin(text: str) -> str:
    """Accept an origin exactly as browsers send it, because it is compared as text, and `*` for all origins."""
    if text != "*" and not _ORIGIN.fullmatch(text):
        raise ValueError(
            "should be an origin as browsers send it, such as https://example.org or http://localhost:3000: in lower case, "
            'without a path and without the default port of its scheme; or "*" for all origins'
        )
    return text


class ResourceSettings(BaseModel):
    """The settings of one resource: its timeouts and, in the subclasses, its location."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    location_field: ClassVar[str] = "url"

    start_timeout: PositiveSeconds = 10
    stop_timeout: PositiveSeconds = 3

    @property
    def location(self) -> str:
        """The host and port, or the path, as messages may show it."""
        value = getattr(self, self.location_field)
        return host_and_port(value) if isinstance(value, SecretStr) else str(value)


class ServerSettings(ResourceSettings):
    """The settings of a resource that is a client of a server, with the files for TLS (see `TLSFiles`)."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def tls_files(self) -> TLSFiles:
        return TLSFiles(self.ca_file, self.cert_file, self.key_file)


class HttpSettings(ServerSettings):
    location_field = "weather_url"

    weather_url: Annotated[SecretStr, origin_url("http", "https")] = SecretStr("https://api.open-meteo.com")


class DatabaseSettings(ServerSettings):
    """The settings of the database. The URL can have options, which `DatabaseOptions` lists.

    Attributes:
        prepared_statements: for a server behind a connection pooler, such as PgBouncer in transaction mode: `none`, or
            `named` if the pooler supports prepared statements. None for a server without a pooler.
    """

    prepared_statements: PreparedStatements | None = None
    url: Annotated[SecretStr, server_url("postgresql+asyncpg"), Field(validate_default=True)] = SecretStr(
        "postgresql+asyncpg://gateway:gateway@localhost:5432/gateway"
    )

    @field_validator("url")
    @classmethod
    def _check_options(cls, url: SecretStr, info: ValidationInfo) -> SecretStr:
        parse_database_url(_add_database_options(url, info.data))
        return url

    @property
    def complete_url(self) -> SecretStr:
        """The URL with the other settings as options. They replace those that it has."""
        return SecretStr(_add_database_options(self.url, dict(self)))

    def variable(self, field: str) -> str:
        """Return the variable that sets a value. Values that have no variable of their own may be options of the URL."""
        return variable_name("database", "url" if getattr(self, field) is None else field)


_DATABASE_OPTIONS = {  # by the fields of the settings
    "ca_file": "sslrootcert",
    "cert_file": "sslcert",
    "key_file": "sslkey",
    "prepared_statements": "prepared_statements",
}


def _add_database_options(url: SecretStr, values: dict[str, Any]) -> str:
    options = {option: str(values[name]) for name, option in _DATABASE_OPTIONS.items() if values.get(name) is not None}
    return add_options(url.get_secret_value(), options)


def _accepted_by(parse: Callable[[str], object]) -> AfterValidator:
    """Return a validator that rejects the URLs that `parse` rejects."""

    def validate(url: SecretStr) -> SecretStr:
        parse(url.get_secret_value())
        return url

    return AfterValidator(validate)


class RedisSettings(ServerSettings):
    url: Annotated[SecretStr, server_url("redis", "rediss"), _accepted_by(parse_redis_url)] = SecretStr(
        "redis://localhost:6379/0"
    )

    @property
    def parsed_url(self) -> RedisURL:
        return parse_redis_url(self.url.get_secret_value())


class RabbitMQSettings(ServerSettings):
    url: Annotated[SecretStr, server_url("amqp", "amqps"), _accepted_by(amqp_options)] = SecretStr(
        "amqp://guest:guest@localhost:5672/"
    )


class ModelSettings(ResourceSettings):
    location_field = "path"

    path: Path = SHIPPED_MODEL


class Settings(BaseSettings):
    """All settings, with one nested group for each resource. `Settings()` reads the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="__",
        secrets_dir="/run/secrets",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    http: HttpSettings = HttpSettings()
    database: DatabaseSettings = DatabaseSettings()
    redis: RedisSettings = RedisSettings()
    rabbitmq: RabbitMQSettings = RabbitMQSettings()
    model: ModelSettings = ModelSettings()

    startup_timeout: PositiveSeconds = 30
    shutdown_timeout: PositiveSeconds = 30
    drain_seconds: Seconds = 0
    graceful_seconds: Seconds = 10
    ready_grace: Seconds = 30
    brief_timeout: PositiveSeconds = 0.8
    max_head_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = 32 * 1024
    head_timeout: PositiveSeconds = 10
    keep_alive_seconds: PositiveSeconds = 75
    max_connections: Annotated[int, Field(ge=1)] = 4000
    max_requests: Annotated[int, Field(ge=1)] = 600
    api_keys: ApiKeys = ()
    allow_plaintext: bool = False
    operator_keys: ApiKeys = ()
    access_log: bool = False
    page: bool = True
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], NoDecode] = ()
    cors_origins: Annotated[tuple[Annotated[str, AfterValidator(_origin)], ...], NoDecode] = ()
    log_format: Literal["auto", "console", "json"] = "auto"
    instance: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")] = "gateway"

    @field_validator("api_keys", "operator_keys", "trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _parse_json_list(cls, value: Any, info: ValidationInfo) -> Any:
        """Parse the text of the variable. pydantic-settings would parse it too, but its error has no variable name."""
        if not isinstance(value, str):
            return value
        try:
            items = json.loads(value)
        except ValueError:
            items = None
        if not isinstance(items, list):
            example = {"trusted_proxies": "10.0.0.0/8", "cors_origins": "https://example.org"}.get(
                str(info.field_name), "alice:SECRET"
            )
            raise ValueError(f'should be a JSON list, such as ["{example}"]')  # noqa: TRY004 - pydantic expects ValueError
        return items

    @model_validator(mode="after")
    def _check_shutdown_budget(self) -> Self:
        if self.drain_seconds + self.graceful_seconds >= self.shutdown_timeout:
            raise ValueError(
                "GATEWAY_SHUTDOWN_TIMEOUT should be more than GATEWAY_DRAIN_SECONDS and GATEWAY_GRACEFUL_SECONDS "
                "together: it limits the whole shutdown"
            )
        return self

    @model_validator(mode="after")
    def _check_keys(self) -> Self:
        """Reject a key for both kinds of requests: a client that may write could read the details for operators."""
        if {key.digest for key in self.api_keys} & {key.digest for key in self.operator_keys}:
            raise ValueError(
                "GATEWAY_API_KEYS and GATEWAY_OPERATOR_KEYS have the same secret: give the operators keys of their own"
            )
        return self

    @model_validator(mode="after")
    def _check_tls_files(self) -> Self:
        """Reject files for TLS that would have no effect."""
        groups = {name: getattr(self, name) for name in type(self).model_fields}
        problems = [
            problem
            for name, group in groups.items()
            if isinstance(group, ServerSettings)
            for problem in _useless_tls_files(name, group)
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # A .env file would be a second place for settings, and the library's source for secrets reads all files.
        del env_settings, dotenv_settings, file_secret_settings
        variables = EnvSettingsSource(settings_cls)
        texts = read_texts(set(_variables_of(settings_cls)), _secrets_folder())
        variables.env_vars = {name.lower(): text for name, text in texts.items()}
        return init_settings, variables


def read_settings() -> Settings:
    """Read the environment and the secret files.

    Raises:
        InvalidSettingsError: a variable is invalid. The message names each one and the expected form.
    """
    try:
        return Settings()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        raise InvalidSettingsError("\n".join(map(_format_error, details))) from None
    except SettingsError as error:
        # A variable such as GATEWAY_REDIS is set to text that is not JSON. The message names the field, not the value.
        raise InvalidSettingsError(f"{error}: set one variable for each value, such as GATEWAY_REDIS__URL") from None


def unknown_settings() -> list[str]:
    """Return a line for each variable and secret file that looks like a setting and is none, such as GATEWAY_REDIS_URL."""
    return describe_unknown_names(set(_variables_of(Settings)), _secrets_folder())


def _variables_of(model: type[BaseModel], *path: str) -> Iterator[str]:
    """Return the names of the variables that set the values of a model and of its groups."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _variables_of(field.annotation, *path, name)
        else:
            yield variable_name(*path, name)


def _secrets_folder() -> Path:
    return Path(str(Settings.model_config["secrets_dir"]))


def _useless_tls_files(name: str, group: ServerSettings) -> Iterator[str]:
    """Return a line for each file for TLS of the group that would have no effect."""
    scheme = scheme_of(getattr(group, group.location_field))
    for field in ("ca_file", "cert_file", "key_file"):
        if getattr(group, field) is None:
            continue
        variable = variable_name(name, field)
        if scheme in TLS_SCHEMES:
            url = variable_name(name, group.location_field)
            yield f"{variable}: has no effect without TLS: use {TLS_SCHEMES[scheme]}:// in {url}"


def _format_error(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    variable = variable_name(*(part for part in error["loc"] if isinstance(part, str)))
    items = "".join(f" item {part + 1}:" for part in error["loc"] if isinstance(part, int))
    return f"{variable}:{items} {message[0].lower()}{message[1:]}"
