"""Whether and where this process makes shared memory: what its environment says."""

from functools import cache
from pathlib import Path

from pydantic import ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from modelmora.errors import InvalidSettings, SharedMemoryUnavailable

PREFIX = "MODELMORA_"


class SharedMemorySettings(BaseSettings):
    """Read once, by whatever process of ours shares memory first."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", env_ignore_empty=True, use_attribute_docstrings=True
    )

    shared_memory: bool = True
    """off: tensors travel as bytes."""
    shared_memory_dir: Path | None = None
    """A folder on a tmpfs, where arenas are made; none: in memory of their own, which can be sealed."""


@cache
def settings() -> SharedMemorySettings:
    """Those of this process.

    Raises:
        InvalidSettings: a value that cannot be understood.
    """
    try:
        return SharedMemorySettings()
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InvalidSettings(
            f"the setting {name} is wrong: {first['input']!r}: {first['msg']}",
            field=name,
            remedy=f"set {PREFIX}{name.upper()} to another value, or not at all",
        ) from error


def required() -> SharedMemorySettings:
    """As `settings`.

    Raises:
        SharedMemoryUnavailable: it is switched off.
    """
    found = settings()
    if not found.shared_memory:
        raise SharedMemoryUnavailable(
            f"shared memory is switched off by {PREFIX}SHARED_MEMORY", remedy="tensors travel as bytes instead"
        )
    return found
