"""Which of the models that nobody holds leaves first, and when. No I/O; times are passed in, monotonic, in seconds.

A policy is three values. `rank`, a pure function, orders the models that may leave: the smallest goes first. `idle_s`
after its last release a model is unloaded. `keeps` says whether it stays until then even if others need its room.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, TypeAlias

from modelmora.errors import InvalidSettings

IDLE_S: Final = 20.0  # unloaded within 30 s, and 10 s of them for what takes its time


@dataclass(frozen=True, slots=True)
class Candidate:
    """A loaded model as policies see it, at one moment."""

    key: Hashable
    size_bytes: int = 0
    references: int = 0
    uses: int = 1  # how often it was asked for since it was loaded, the first time included
    loaded_at: float = 0.0
    idle_since: float = math.inf  # its last release; means nothing while somebody holds it


Rank: TypeAlias = Callable[[Candidate, float], float]


@dataclass(frozen=True, slots=True)
class Policy:
    """When a model that nobody holds has to leave."""

    name: str
    rank: Rank  # of a candidate at a time; of equals, the longest idle goes first
    idle_s: float = IDLE_S
    keeps: bool = False

    def __post_init__(self) -> None:
        if not self.idle_s >= 0:
            raise InvalidSettings(f"idle_s is {self.idle_s}", field="idle_s", remedy="give seconds, 0 or more")

    def expires_at(self, model: Candidate) -> float:
        """When it is unloaded if nobody asks for it; infinite while somebody holds it."""
        return math.inf if model.references else model.idle_since + self.idle_s


def least_recently_used(model: Candidate, _: float) -> float:
    """A model is used for as long as it is held: what counts is its last release."""
    return model.idle_since


def least_frequently_used(model: Candidate, now: float) -> float:
    """Uses a second since it was loaded, so that an old model does not live on what it once was."""
    return model.uses / max(now - model.loaded_at, 1e-9)


def fewest_references(model: Candidate, _: float) -> float:
    """How many references were ever taken to it."""
    return model.uses


LRU: Final = Policy("lru", least_recently_used)
LFU: Final = Policy("lfu", least_frequently_used)
TTL: Final = Policy("ttl", least_recently_used, keeps=True)  # every model has its time, whoever needs room
REFERENCE_COUNT: Final = Policy("reference-count", fewest_references)
MANUAL: Final = Policy("manual", least_recently_used, idle_s=math.inf, keeps=True)  # nothing leaves but by evict()

POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {policy.name: policy for policy in (LRU, LFU, TTL, REFERENCE_COUNT, MANUAL)}
)


def policy_of(policy: str | Policy, idle_s: float | None = None) -> Policy:
    """A policy by its name or as it is, with another idle time if one is given.

    Raises:
        InvalidSettings: there is no policy of that name, or the idle time is negative.
    """
    if isinstance(policy, str):
        if policy not in POLICIES:
            known = ", ".join(POLICIES)
            raise InvalidSettings(f"no policy is called {policy!r}", field="policy", remedy=f"use one of {known}")
        policy = POLICIES[policy]
    return policy if idle_s is None else replace(policy, idle_s=idle_s)


def expired(policy: Policy, models: Iterable[Candidate], now: float) -> list[Candidate]:
    """Those whose time is over, in the order in which they leave."""
    return _in_order(policy, (model for model in models if policy.expires_at(model) <= now), now)


def leaving_order(policy: Policy, models: Iterable[Candidate], now: float) -> list[Candidate]:
    """Those that may leave for another, the first to go first; never one that somebody holds."""
    idle = [model for model in models if not model.references]
    return expired(policy, idle, now) if policy.keeps else _in_order(policy, idle, now)


def next_expiry(policy: Policy, models: Iterable[Candidate], now: float) -> float:
    """When the next time will be over; infinite if none is running."""
    return min((at for model in models if (at := policy.expires_at(model)) > now), default=math.inf)


def _in_order(policy: Policy, models: Iterable[Candidate], now: float) -> list[Candidate]:
    return sorted(models, key=lambda model: (policy.rank(model, now), model.idle_since))
