"""Settings of the programs, read once: default < file < environment (MODELMORA_…) < flag."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import yaml
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from modelmora.client.settings import DEFAULT_TARGET, Surroundings
from modelmora.errors import InvalidSettings
from modelmora.telemetry import LogFormat, LogLevel
from modelmora.tensors.settings import SharedMemorySettings

PREFIX: Final = "MODELMORA_"
_OF_OTHERS: Final = ("MODELMORA_WORKER_", "MODELMORA_ROUTER_", "MODELMORA_OPERATOR_", "MODELMORA_TEST_")
S = TypeVar("S", bound=BaseSettings)


class ClientSettings(BaseSettings):
    """How the CLI reaches a server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    server: str = Field(default=DEFAULT_TARGET, description="host:port of the server's gRPC")
    namespace: str = Field(default="", description="whose models; empty = the server's default")


def _words(value: object) -> object:
    """The environment writes a list as words with commas between them."""
    return [word.strip() for word in value.split(",") if word.strip()] if isinstance(value, str) else value


class ServeSettings(BaseSettings):
    """What `modelmora serve` itself needs to know; the parts that it runs have settings of their own."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", use_attribute_docstrings=True)

    sources: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_words)] = ()
    """Manifests, folders of them, or bare sources such as hf://org/name; in the environment, with commas between."""
    task: str = "txt2embed"
    """What the model of a bare source does."""
    log_format: LogFormat = LogFormat.AUTO
    """console, json, or auto: console at a terminal."""
    log_level: LogLevel = LogLevel.INFO
    """DEBUG, INFO, WARNING or ERROR."""


def unknown_variables(environment: Iterable[str], kinds: Sequence[type[BaseSettings]]) -> list[str]:
    """Variables that look like settings of ours and are none, for example misspelt ones."""
    every: list[type[BaseSettings]] = [ClientSettings, Surroundings, SharedMemorySettings, *kinds]
    known = {PREFIX + name.upper() for kind in every for name in kind.model_fields}
    ours = (name for name in environment if name.startswith(PREFIX) and not name.startswith(_OF_OTHERS))
    return sorted(name for name in ours if name not in known)


def read_file(file: Path, kinds: Sequence[type[BaseSettings]]) -> dict[str, Any]:
    """The settings that a YAML file gives, keys as the fields of `kinds` are called (restPort or rest_port).

    Raises:
        InvalidSettings: no such file, no mapping, or a key that none of `kinds` has.
    """
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidSettings(f"{file} cannot be read: {error}", file=str(file), remedy="give a YAML file") from error
    if not isinstance(content, dict):
        raise InvalidSettings(f"{file} is no mapping", file=str(file), remedy="write `setting: value` lines")
    values = {_snake(str(key)): value for key, value in content.items()}
    known = sorted({name for kind in kinds for name in kind.model_fields})
    for name in values:
        if name not in known:
            raise InvalidSettings(
                f"{file} sets {name}, which is no setting",
                file=str(file),
                field=name,
                remedy=f"known are {', '.join(known)}",
            )
    return values


def read(kind: type[S], *, file_values: Mapping[str, Any], flags: Mapping[str, Any]) -> S:
    """Settings of one kind; flags that are None were not given.

    Raises:
        InvalidSettings: a value that the field refuses; `field` says which.
    """
    from_file = {name: value for name, value in file_values.items() if name in kind.model_fields}
    given = {name: value for name, value in flags.items() if value is not None and name in kind.model_fields}

    class WithFile(kind):  # type: ignore[valid-type,misc]  # pydantic-settings takes its sources from a class
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature of pydantic-settings
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=from_file)

    try:
        return WithFile(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise InvalidSettings(
            f"the setting {name} is wrong: {first['input']!r}: {first['msg']}",
            field=name,
            remedy=f"set it by flag, by {PREFIX}{name.upper()}, or in the file given with --config",
        ) from error


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
