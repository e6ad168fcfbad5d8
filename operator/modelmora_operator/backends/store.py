"""What the API server has told of one kind of object, by namespace and name.

It is told from three sides, a watch, answers to our own writes, and complete lists, in no certain order: the newer
state of an object wins, by its resourceVersion. A list is authoritative for everything up to its own version, so that
what it lacks is gone, even if no watch ever said so. What was deleted does not come back by an older message.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

from modelmora.kube.api import Listed
from modelmora.kube.following import Name, name_of
from modelmora_operator.backends.versions import number_of, version_of

V = TypeVar("V")

_REMEMBERED_DELETIONS: Final = 10_000


class Store(Generic[V]):
    """One kind. `read` makes the value of an object; `changed` is called with the value before and the value now."""

    def __init__(
        self, read: Callable[[Mapping[str, Any]], V], changed: Callable[[Name, V | None, V | None], None]
    ) -> None:
        self._read = read
        self._changed = changed
        self._values: dict[Name, V] = {}
        self._versions: dict[Name, int] = {}
        self._uids: dict[Name, str] = {}
        self._deleted: OrderedDict[str, None] = OrderedDict()

    def __getitem__(self, name: Name) -> V | None:
        return self._values.get(name)

    def __iter__(self) -> Iterator[Name]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def put(self, item: Mapping[str, Any]) -> bool:
        """Takes in one object; False: what is known is as new, or it is known to be gone."""
        name, version, uid = name_of(dict(item)), version_of(item), _uid(item)
        if uid in self._deleted or (name in self._versions and version <= self._versions[name]):
            return False
        before = self._values.get(name)
        self._values[name], self._versions[name], self._uids[name] = self._read(item), version, uid
        self._changed(name, before, self._values[name])
        return True

    def remove(self, name: Name, uid: str) -> bool:
        """That object is gone; a successor of its name stays."""
        self._forget(uid)
        if self._uids.get(name) != uid:
            return False
        self._drop(name)
        return True

    def replace(self, listed: Listed, covers: Callable[[Name], bool] = lambda _: True) -> int:
        """Takes in all there are, of the names that the list covers; the answer is how many were not known so."""
        present = {name_of(item) for item in listed.items}
        until = number_of(listed.resource_version)
        lost = [name for name in self._values if covers(name) and name not in present]
        gone = [name for name in lost if self._versions[name] <= until]  # the others were made after the list
        news = sum(self.remove(name, self._uids[name]) for name in gone)
        return news + sum(self.put(item) for item in listed.items)

    def clear(self, covers: Callable[[Name], bool] = lambda _: True) -> int:
        """The kind itself is gone, and every object with it."""
        gone = [name for name in self._values if covers(name)]
        return sum(self.remove(name, self._uids[name]) for name in gone)

    def withdraw(self, covers: Callable[[Name], bool]) -> None:
        """These cannot be seen any more. Unlike what was deleted, they may come back as they were."""
        for name in [name for name in self._values if covers(name)]:
            self._drop(name)

    def _drop(self, name: Name) -> None:
        before = self._values.pop(name)
        del self._versions[name], self._uids[name]
        self._changed(name, before, None)

    def _forget(self, uid: str) -> None:
        self._deleted[uid] = None
        if len(self._deleted) > _REMEMBERED_DELETIONS:
            self._deleted.popitem(last=False)


def _uid(item: Mapping[str, Any]) -> str:
    return str(item["metadata"].get("uid") or "")
