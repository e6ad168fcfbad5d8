"""What a client reads from its environment."""

from typing import Final

from pydantic_settings import BaseSettings, SettingsConfigDict

DEFAULT_TARGET: Final = "localhost:9000"


class Surroundings(BaseSettings):
    """Set by whoever starts a container beside a worker."""

    model_config = SettingsConfigDict(
        env_prefix="MODELMORA_", env_ignore_empty=True, extra="ignore", use_attribute_docstrings=True
    )

    socket: str = ""
    """The path of the socket of a worker on this machine; empty: the server is called instead."""


def default_target() -> str:
    """The worker beside this process, where there is one; else the server of this machine."""
    socket = Surroundings().socket
    return f"unix:{socket.removeprefix('unix:')}" if socket else DEFAULT_TARGET
