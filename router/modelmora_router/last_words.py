"""What the program says when it cannot begin: one line. One of several leaves it to the one that started them."""

import sys
from pathlib import Path

from modelmora.errors import ModelMoraError


def of(error: ModelMoraError) -> str:
    """The line, with what to do."""
    known = {"where": error.context.endpoint or error.context.file, "setting": error.context.field}
    where = ", ".join(f"{name} {value}" for name, value in known.items() if value)
    remedy = f"; {error.context.remedy}" if error.context.remedy else ""
    return f"modelmora_router: {error.message}{f' ({where})' if where else ''}{remedy}\n"


def leave(words: str, folder: Path, number: int) -> None:
    """For the one that started the process of this number; if that has gone, they are said here."""
    try:
        _file(folder, number).write_text(words, encoding="utf-8")
    except FileNotFoundError:
        sys.stderr.write(words)


def take(folder: Path, number: int) -> str:
    """What that process has left, once; empty: nothing."""
    file = _file(folder, number)
    if not file.exists():
        return ""
    words = file.read_text(encoding="utf-8")
    file.unlink()
    return words


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.words"
