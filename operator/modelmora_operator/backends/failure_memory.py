"""The failures in a row of each deployment, remembered while the operator lives."""

import random
from collections.abc import Callable, Collection
from dataclasses import replace

from modelmora.control import Key
from modelmora_operator import failures
from modelmora_operator.cluster import FailureRecord


class FailureMemory:
    """One record a deployment, of the spec that failed last."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._records: dict[Key, FailureRecord] = {}

    def __getitem__(self, key: Key) -> FailureRecord | None:
        return self._records.get(key)

    def record_of(self, key: Key, end: failures.End) -> FailureRecord:
        """What the record is after that end; it is not remembered yet."""
        return failures.recorded(self._records.get(key), end, self._chance())

    def remember(self, key: Key, record: FailureRecord) -> None:
        """Replaces what was remembered."""
        self._records[key] = record

    def served(self, key: Key, spec_hash: str) -> None:
        """A worker of that spec serves: its failures are over, though a crash soon after is in a row with them."""
        record = self._records.get(key)
        if record is not None and record.spec_hash == spec_hash and not record.healed:
            self._records[key] = replace(record, healed=True)

    def ended_well(self, key: Key, spec_hash: str, served_s: float | None) -> None:
        """A worker was asked to end: if it had served for long, the next failure is the first one again."""
        record = self._records.get(key)
        if record is not None and record.spec_hash == spec_hash and failures.was_stable(served_s):
            del self._records[key]

    def forget(self, key: Key) -> None:
        """The deployment is gone."""
        self._records.pop(key, None)

    def keep_only(self, keys: Collection[Key]) -> None:
        """All other deployments are gone."""
        self._records = {key: record for key, record in self._records.items() if key in keys}
