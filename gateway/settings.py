"""The settings: environment variables that begin with `GATEWAY_`, or files of the same name in /run/secrets."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from gateway.network.amqp_url import amqp_options
from gateway.network.tls import TLSFiles

PREFIX = "GATEWAY_"
SHIPPED_MODEL = Path(__file__).parent / "assets" / "wet_tomorrow.onnx"

Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class InvalidSettingsError(Exception):
    """The settings cannot be used. The message has one line for each invalid variable, and none of the values."""


def _url_validator(*schemes: str, origin_only: bool = False) -> AfterValidator:
    """Return a validator that accepts URLs with one of the schemes, a host, and no port or a valid one.

    With `origin_only`, reject user, path, query and fragment. They would have no effect, and httpx shows the whole URL in
    its errors.
    """

    def validate(url: SecretStr) -> SecretStr:
        examples = " or ".join(f"{scheme}://host:port" for scheme in schemes)
        try:
            parts = urlsplit(url.get_secret_value())
            valid = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
        except ValueError:
            valid = False
        if valid and origin_only:
            valid = "@" not in parts.netloc and not (parts.path.strip("/") or parts.query or parts.fragment)
        if not valid:
            raise ValueError(f"should be a URL like {examples}")
        return url

    return AfterValidator(validate)


def _printable_ascii(key: SecretStr) -> SecretStr:
    """Reject keys that an Authorization header cannot carry unchanged, and the empty key, which any client could send."""
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError("should be visible ASCII characters, at least one and no space")
    return key


def variable_name(*path: str) -> str:
    """Return the variable that sets a value: ("redis", "url") is set by GATEWAY_REDIS__URL."""
    return PREFIX + "__".join(path).upper()


def host_and_port(url: SecretStr) -> str:
    """Return the part of a URL that messages may show, without user and password."""
    parts = urlsplit(url.get_secret_value())
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    return f"{host}:{parts.port}" if parts.port else host


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

    weather_url: Annotated[SecretStr, _url_validator("http", "https", origin_only=True)] = SecretStr(
        "https://api.open-meteo.com"
    )


class DatabaseSettings(ServerSettings):
    url: Annotated[SecretStr, _url_validator("postgresql+asyncpg")] = SecretStr(
        "postgresql+asyncpg://gateway:gateway@localhost:5432/gateway"
    )


class RedisSettings(ServerSettings):
    url: Annotated[SecretStr, _url_validator("redis", "rediss")] = SecretStr("redis://localhost:6379/0")


def _valid_amqp_options(url: SecretStr) -> SecretStr:
    amqp_options(url.get_secret_value())
    return url


class RabbitMQSettings(ServerSettings):
    url: Annotated[SecretStr, _url_validator("amqp", "amqps"), AfterValidator(_valid_amqp_options)] = SecretStr(
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
        env_ignore_empty=True,
        secrets_dir="/run/secrets",
        secrets_dir_missing="ok",
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
    api_keys: Annotated[tuple[Annotated[SecretStr, AfterValidator(_printable_ascii)], ...], NoDecode] = ()
    instance: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")] = "gateway"

    @field_validator("api_keys", mode="before")
    @classmethod
    def _parse_json_list(cls, value: Any) -> Any:
        """Parse the text of the variable. pydantic-settings would parse it too, but its error has no variable name."""
        if not isinstance(value, str):
            return value
        try:
            keys = json.loads(value)
        except ValueError:
            keys = None
        if not isinstance(keys, list):
            raise ValueError('should be a JSON list, such as ["one", "two"]')  # noqa: TRY004 - pydantic expects ValueError
        return keys

    @model_validator(mode="after")
    def _check_shutdown_budget(self) -> Self:
        if self.drain_seconds + self.graceful_seconds >= self.shutdown_timeout:
            raise ValueError(
                "GATEWAY_SHUTDOWN_TIMEOUT should be more than GATEWAY_DRAIN_SECONDS and GATEWAY_GRACEFUL_SECONDS "
                "together: it limits the whole shutdown"
            )
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
        del dotenv_settings  # a .env file would be a second place for settings
        return init_settings, env_settings, NestedSecretsSettingsSource(file_secret_settings)


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


def _format_error(error: ErrorDetails) -> str:
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message
    return f"{variable_name(*map(str, error['loc']))}: {message[0].lower()}{message[1:]}"
