"""What the API server told, from several sides and in no certain order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from modelmora.kube.api import Listed
from modelmora.kube.following import Name
from modelmora_operator.backends.store import Store


def item(name: str, version: int, uid: str = "", namespace: str = "n") -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": uid or f"uid-{name}",
            "resourceVersion": str(version),
        }
    }


class Told:
    """A store, and what it told."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, int | None, int | None]] = []
        self.store: Store[int] = Store(lambda one: int(one["metadata"]["resourceVersion"]), self._changed)

    def _changed(self, name: Name, before: int | None, now: int | None) -> None:
        self.changes.append((name[1], before, now))

    @property
    def held(self) -> dict[str, int | None]:
        return {name[1]: self.store[name] for name in self.store}


def test_an_older_state_never_replaces_a_newer_one() -> None:
    told = Told()
    assert told.store.put(item("a", 5))
    assert not told.store.put(item("a", 4))
    assert not told.store.put(item("a", 5))
    assert told.store.put(item("a", 6))
    assert told.changes == [("a", None, 5), ("a", 5, 6)]


def test_what_was_deleted_does_not_come_back_but_its_successor_may() -> None:
    told = Told()
    told.store.put(item("a", 5))
    assert told.store.remove(("n", "a"), "uid-a")
    assert not told.store.put(item("a", 4))
    assert told.store.put(item("a", 9, uid="another"))
    assert not told.store.remove(("n", "a"), "uid-a")
    assert told.held == {"a": 9}


def test_a_list_takes_away_what_no_watch_said_was_gone() -> None:
    told = Told()
    told.store.put(item("lost", 3))
    told.store.put(item("new", 12))
    told.store.put(item("ahead", 11))
    assert told.store.replace(Listed((item("ahead", 10), item("unheard", 8)), "10")) == 2
    assert told.held == {"new": 12, "ahead": 11, "unheard": 8}


def test_a_list_of_one_namespace_says_nothing_of_another() -> None:
    told = Told()
    told.store.put(item("a", 1, namespace="here"))
    told.store.put(item("b", 1, namespace="there"))
    told.store.replace(Listed((), "9"), lambda name: name[0] == "here")
    assert told.held == {"b": 1}


def test_with_its_kind_every_object_goes() -> None:
    told = Told()
    told.store.put(item("a", 1))
    assert told.store.clear() == 1
    assert len(told.store) == 0


@given(st.permutations([("put", 1), ("put", 2), ("put", 3), ("gone", 3)]))
def test_in_whatever_order_it_is_told_the_end_is_the_same(order: list[tuple[str, int]]) -> None:
    told = Told()
    for kind, version in order:
        if kind == "put":
            told.store.put(item("a", version))
        else:
            told.store.remove(("n", "a"), "uid-a")
    assert told.held == {}
