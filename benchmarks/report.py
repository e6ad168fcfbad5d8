"""What every benchmark ends with: a table for people and benchmarks/results/NAME.json for machines."""

import json
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import psutil
from rich.console import Console
from rich.table import Table

_WIDTH = 160
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number.

    `baseline` was measured in the same run, `goal` is a bound on the value, `holds` whether it was kept.
    """

    name: str
    value: float
    unit: str
    baseline: float | None = None
    goal: float | None = None
    holds: bool | None = None
    samples: int = 1
    spread: float = 0.0  # interquartile range, in the same unit
    goal_is: Literal["at most", "at least"] = "at most"


@dataclass(frozen=True)
class Absent:
    """A figure that this run does not have, and why."""

    name: str
    why: str


def figure(
    name: str,
    samples: Sequence[float],
    unit: str,
    *,
    percentile: int = 50,
    baseline: float | None = None,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """A figure from its samples: their median, or another percentile of them."""
    value = quantile(samples, percentile)
    spread = quantile(samples, 75) - quantile(samples, 25)
    if at_least is not None:
        return Figure(name, value, unit, baseline, at_least, value >= at_least, len(samples), spread, "at least")
    holds = None if at_most is None else value <= at_most
    return Figure(name, value, unit, baseline, at_most, holds, len(samples), spread)


def quantile(samples: Sequence[float], percentile: int) -> float:
    """A percentile of the samples, 1 to 99."""
    if len(samples) == 1:
        return samples[0]
    return statistics.quantiles(samples, n=100, method="inclusive")[percentile - 1]


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": psutil.cpu_count() or 0,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def publish(name: str, figures: Sequence[Figure], absent: Sequence[Absent] = (), *, folder: Path = RESULTS) -> None:
    """Prints the figures, writes them, and says plainly which goals were missed and what is not there."""
    folder.mkdir(exist_ok=True)
    document: dict[str, Any] = {"machine": machine(), "figures": [asdict(each) for each in figures]}
    if absent:
        document["absent"] = [asdict(each) for each in absent]
    (folder / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH)
    table = Table(title=f"{name}: {machine()['cpu']}, {machine()['cores']} cores")
    for column in ("figure", "value", "spread", "baseline", "goal", "holds", "samples"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for each in figures:
        table.add_row(*_row(each))
    console.print(table)
    missed = [each.name for each in figures if each.holds is False]
    console.print(f"missed goals: {'; '.join(missed)}" if missed else "every goal that was measured was reached")
    for one in absent:
        console.print(f"absent: {one.name}: {one.why}", markup=False)


def _row(each: Figure) -> list[str]:
    def shown(number: float | None) -> str:
        return "" if number is None else f"{number:.4g} {each.unit}"

    holds = {True: "yes", False: "NO", None: ""}[each.holds]
    sign = "≤" if each.goal_is == "at most" else "≥"
    goal = "" if each.goal is None else f"{sign} {shown(each.goal)}"
    return [each.name, shown(each.value), shown(each.spread), shown(each.baseline), goal, holds, str(each.samples)]
