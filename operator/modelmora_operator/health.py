"""Whether the operator makes progress, in words. Pure.

It does if everything has been listed, the lists are fresh, and the queue moves. What a restart would not heal (an API
that cannot be reached, a right or a definition that is missing) is said, and the operator stays alive, but not ready.
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
    refused_watches: tuple[str, ...] = ()  # likewise, of those that the API server refuses
    oldest_s: float = 0.0
    allowed_oldest_s: float = 180.0


def troubles(pulse: Pulse) -> list[str]:
    """What is wrong, the gravest first; empty: all is well."""
    return [*refusals(pulse), *stalls(pulse)]


def refusals(pulse: Pulse) -> list[str]:
    """What the API does not let us read; it is asked again and again."""
    return [
        *(one.problem for one in pulse.reads if one.problem),
        *(f"watches are refused: {why}" for why in pulse.refused_watches),
    ]


def stalls(pulse: Pulse) -> list[str]:
    """What stands still although nothing is refused."""
    found = [] if refusals(pulse) else [*_old(pulse.reads), *(f"watches do not run: {why}" for why in pulse.watches)]
    if pulse.oldest_s > pulse.allowed_oldest_s:
        found.append(f"a deployment has waited for its reconcile for {pulse.oldest_s:.0f} s")
    if not pulse.synced and not found and not refusals(pulse):
        found.append("not everything has been listed yet")
    return found


def unreachable(pulse: Pulse) -> str:
    """Since when the API cannot be reached, in words; empty: it can."""
    longest = max((reads.unreachable_s for reads in pulse.reads if reads.unreachable_s is not None), default=None)
    return "" if longest is None else f"the Kubernetes API cannot be reached since {longest:.0f} s: it is tried again"


def alive(pulse: Pulse) -> bool:
    """False: a restart may help, and somebody should look."""
    return bool(unreachable(pulse)) or pulse.up_s < STARTING_S or not stalls(pulse)


def ready(pulse: Pulse) -> bool:
    """It does its work."""
    return pulse.synced and not unreachable(pulse) and not troubles(pulse)


def told(pulse: Pulse) -> str:
    """The body of the answer."""
    words = [unreachable(pulse)] if unreachable(pulse) else troubles(pulse)
    return "\n".join(words) + "\n" if words else "ok\n"


def _old(reads: Iterable[Reads]) -> Iterable[str]:
    for one in reads:
        if one.age_s is not None and one.age_s > one.allowed_age_s:
            yield f"{one.kind} were listed last {one.age_s:.0f} s ago"
