"""The settings: environment variables that begin with `GATEWAY_`, or files of the same name in /run/secrets."""

import json
import re
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

PREFIX = "GATEWAY_"
SHIPPED_MODEL = Path(__file__).parent / "assets" / "wet_tomorrow.onnx"

Seconds = Annotated[float, Field(ge=0, le=3600, allow_inf_nan=False)]
PositiveSeconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]


class InvalidSettingsError(Exception):
    """The settings cannot be used; the message has a line for each variable that is wrong, and no value of any."""


def _url_with(*schemes: str, origin: bool = False) -> AfterValidator:
    """Accept a URL with one of the schemes, a host and a port that is a number."""

    def validate(url: SecretStr) -> SecretStr:
        wanted = " or ".join(f"{scheme}://host:port" for scheme in schemes)
        try:
            parts = urlsplit(url.get_secret_value())
            usable = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
            if origin:  # anything else would have no effect, and be shown: httpx puts the whole URL into its errors
                usable = (
                    usable and "@" not in parts.netloc and not (parts.path.strip("/") or parts.query or parts.fragment)
                )
        except ValueError:
            usable = False
        if not usable:
            raise ValueError(f"should be a URL like {wanted}")
        return url

    return AfterValidator(validate)


def _visible(key: SecretStr) -> SecretStr:
    """Accept what a header can say as it is: an empty key would let everybody in, and a space could not be told."""
    if not re.fullmatch(r"[!-~]+", key.get_secret_value()):
        raise ValueError("should be visible ASCII characters, at least one and no space")
    return key


def host_and_port(url: SecretStr) -> str:
    """What of a URL may be shown: its host and port, without user and password."""
    parts = urlsplit(url.get_secret_value())
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    return f"{host}:{parts.port}" if parts.port else host


class ResourceSettings(BaseModel):
    """What every resource has: how long its start and its stop may take."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    start_timeout: PositiveSeconds = 10
    stop_timeout: PositiveSeconds = 3


class HttpSettings(ResourceSettings):
    weather_url: Annotated[SecretStr, _url_with("http", "https", origin=True)] = SecretStr("https://api.open-meteo.com")


class DatabaseSettings(ResourceSettings):
    url: Annotated[SecretStr, _url_with("postgresql+asyncpg")] = SecretStr(
        "postgresql+asyncpg://gateway:gateway@localhost:5432/gateway"
    )


class RedisSettings(ResourceSettings):
    url: Annotated[SecretStr, _url_with("redis", "rediss")] = SecretStr("redis://localhost:6379/0")


class RabbitMQSettings(ResourceSettings):
    url: Annotated[SecretStr, _url_with("amqp", "amqps")] = SecretStr("amqp://guest:guest@localhost:5672/")


class ModelSettings(ResourceSettings):
    path: Path = SHIPPED_MODEL


class Settings(BaseSettings):
    """Everything that can be set, one nested group a resource. `Settings()` reads the environment."""

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
    api_keys: tuple[Annotated[SecretStr, AfterValidator(_visible)], ...] = ()
    instance: Annotated[str, Field(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9._-]+$")] = "gateway"

    @model_validator(mode="after")
    def _the_stop_fits(self) -> Self:
        if self.drain_seconds + self.graceful_seconds >= self.shutdown_timeout:
            raise ValueError(
                "GATEWAY_SHUTDOWN_TIMEOUT should be more than GATEWAY_DRAIN_SECONDS and GATEWAY_GRACEFUL_SECONDS "
                "together: it bounds the whole stop"
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
        del dotenv_settings  # the environment is the one place for settings
        return init_settings, env_settings, NestedSecretsSettingsSource(file_secret_settings)


def read_settings() -> Settings:
    """Read the environment and the secret files.

    Raises:
        InvalidSettingsError: naming each variable that is wrong and what it should be.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettingsError(
            "\n".join(map(_complaint, json.loads(error.json(include_url=False, include_input=False))))
        ) from None
    except SettingsError as error:
        # Its message names the field; the value that could not be parsed is only in its cause.
        field = re.search(r'field "(\w+)"', str(error))
        name = f"{PREFIX}{field[1].upper()}" if field else PREFIX
        raise InvalidSettingsError(f'{name}: should be JSON, such as ["one", "two"] for a list') from None


def _complaint(error: dict[str, object]) -> str:
    location = error["loc"]
    message = str(error["msg"]).removeprefix("Value error, ")
    if not isinstance(location, list) or not location:
        return message
    return f"{PREFIX}{'__'.join(str(part).upper() for part in location)}: {message[0].lower()}{message[1:]}"
