"""Where programs of this machine find the worker of a model: at a path that follows from the model's name alone."""

import os
from pathlib import Path
from typing import Final

from modelmora.control import Key
from modelmora.errors import InvalidSettings

_LONGEST_PATH: Final = 107  # sun_path without its terminating zero
_LONGEST_ENDING: Final = len(".4194304.tensors")  # the worker listens beside the path, at names of its own


def made(folder: Path) -> Path:
    """The folder, for this user alone if it was not there.

    Raises:
        InvalidSettings: it cannot be made.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSettings(
            f"the folder of sockets {folder} cannot be made: {error.strerror}",
            field="socket_dir",
            file=str(folder),
            remedy="name a folder that this user may write to",
        ) from error
    return folder.absolute()


def path_of(folder: Path, key: Key) -> Path:
    """Of the workers of one deployment."""
    return folder / f"{key.namespace}.{key.name}.sock"


def usable_path_of(folder: Path, key: Key) -> Path:
    """As `path_of`.

    Raises:
        InvalidSettings: it is longer than a socket's path may be.
    """
    path = path_of(folder, key)
    length, most = len(os.fsencode(path)), _LONGEST_PATH - _LONGEST_ENDING
    if length > most:
        raise InvalidSettings(
            f"the socket of {key} would be at {path}, which has {length} bytes; {most} are possible",
            field="socket_dir",
            file=str(folder),
            remedy="name a folder with a shorter path (--socket-dir or MODELMORA_SOCKET_DIR)",
        )
    return path
