"""What people see: tables, short forms of long things, and errors that help."""

import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelmora.errors import AddressInUse, AlreadyRunning, ModelMoraError
from modelmora.wire.values import Items

_SHOWN_NUMBERS = 6
_WIDEST = 1000
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def console(*, stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False)


def show_json(value: object) -> None:
    """One JSON document on stdout, for machines."""
    json.dump(value, sys.stdout, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None)
    sys.stdout.write("\n")


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table without lines, as kubectl prints them; what is long is folded, never cut."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for name in columns:
        table.add_column(name.upper(), overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out = console()
    if not out.is_terminal:
        out.width = _WIDEST  # whatever reads this breaks no lines
    out.print(table)


def show_error(error: ModelMoraError) -> None:
    """What happened, to which model, and what to do."""
    context = error.context
    setting = isinstance(error, AddressInUse | AlreadyRunning)
    where = [
        ("model", context.model_id),
        ("setting" if setting else "field", _setting(context.field) if setting else context.field),
        ("file", context.file),
        ("request", context.request_id),
    ]
    out = console(stderr=True)
    out.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    for name, value in where:
        if value:
            out.print(Text(f"  {name}: {value}"), soft_wrap=True)
    if context.retry_after_s is not None:
        out.print(Text(f"  try again in {context.retry_after_s:.0f} s"))
    if context.remedy:
        out.print(Text.assemble(("  what to do: ", "bold"), context.remedy), soft_wrap=True)


def _setting(name: str) -> str:
    return f"{name} (--{name.replace('_', '-')} or MODELMORA_{name.upper()})" if name else ""


def jsonable(items: Items) -> list[Any]:
    """Output values as JSON has them: arrays as nested lists, images as their sizes."""
    if isinstance(items, np.ndarray):
        nested: list[Any] = items.tolist()
        return nested
    return [item if isinstance(item, str) else {"bytes": len(item)} for item in items]


def short(items: Items) -> str:
    """One line a value, for people."""
    if isinstance(items, np.ndarray):
        numbers = items.reshape(-1)[:_SHOWN_NUMBERS].tolist()
        head = ", ".join(f"{number:.4f}" if isinstance(number, float) else str(number) for number in numbers)
        more = ", …" if items.size > _SHOWN_NUMBERS else ""
        return f"{items.dtype} {'×'.join(map(str, items.shape))}  [{head}{more}]"
    shown = [item if isinstance(item, str) else f"image, {len(item)} bytes" for item in items]
    return shown[0] if len(shown) == 1 else "".join(f"\n  {number}. {text}" for number, text in enumerate(shown, 1))


def age(moment: datetime | None, *, now: datetime | None = None) -> str:
    """`5m` since then, `-` for never."""
    if moment is None:
        return "-"
    seconds = max(0, int(((now or datetime.now(UTC)) - moment).total_seconds()))
    for size, unit in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
