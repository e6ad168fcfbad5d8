"""Whether the operator makes progress, in words. Pure.

It does if everything has been listed, the lists are fresh, and the queue moves. An API that cannot be reached is not a
fault of ours that a restart would heal: it is said, and the operator stays alive.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

STARTING_S: Final = 30.0  # after the start, before what is missing counts


@dataclass(frozen=True, slots=True)
class Reads:
    """Of one kind of object; ages in seconds, None: never."""

    kind: str
    age_s: float | None
    unreachable_s: float | None = None
    problem: str = ""
    allowed_age_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Pulse:
    """Everything that is asked. `oldest_s` is the age of the oldest key in the queue."""

    up_s: float
    synced: bool
    reads: tuple[Reads, ...]
    watches: tuple[str, ...] = ()  # what is wrong with each that does not run
    oldest_s: float = 0.0
    allowed_oldest_s: float = 180.0


def troubles(pulse: Pulse) -> list[str]:
    """What is wrong, the gravest first; empty: all is well."""
    found = [*_reads(pulse.reads), *(f"watches do not run: {problem}" for problem in pulse.watches)]
    if pulse.oldest_s > pulse.allowed_oldest_s:
        found.append(f"a deployment has waited for its reconcile for {pulse.oldest_s:.0f} s")
    if not pulse.synced and not found:
        found.append("not everything has been listed yet")
    return found


def unreachable(pulse: Pulse) -> str:
    """Since when the API cannot be reached, in words; empty: it can."""
    longest = max((reads.unreachable_s for reads in pulse.reads if reads.unreachable_s is not None), default=None)
    return "" if longest is None else f"the Kubernetes API cannot be reached since {longest:.0f} s: it is tried again"


def alive(pulse: Pulse) -> bool:
    """False: a restart may help, and somebody should look."""
    return bool(unreachable(pulse)) or pulse.up_s < STARTING_S or not troubles(pulse)


def ready(pulse: Pulse) -> bool:
    """It does its work."""
    return pulse.synced and not unreachable(pulse) and not troubles(pulse)


def told(pulse: Pulse) -> str:
    """The body of the answer."""
    words = [unreachable(pulse)] if unreachable(pulse) else troubles(pulse)
    return "\n".join(words) + "\n" if words else "ok\n"


def _reads(reads: Iterable[Reads]) -> Iterable[str]:
    for one in reads:
        if one.problem:
            yield one.problem
        elif one.age_s is not None and one.age_s > one.allowed_age_s:
            yield f"{one.kind} were listed last {one.age_s:.0f} s ago"
