"""What a caller gets: one counted reference to a model."""

from collections.abc import Hashable
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar, cast

from modelmora.errors import InvalidRequest
from modelmora.registry.entries import Entry
from modelmora.registry.keeper import Keeper

T = TypeVar("T")


class ModelHandle(Generic[T]):
    """Keeps its model loaded until it is closed: by `close()`, at the end of its `with`, or by the garbage collector.

    Whoever keeps `handle.model` for longer has the object, but it is unloaded and counted as gone.
    """

    __slots__ = ("__weakref__", "_entry", "_keeper")

    def __init__(self, keeper: Keeper, entry: Entry) -> None:
        # The reference that it takes over is counted already.
        self._keeper = keeper
        self._entry: Entry | None = entry

    @property
    def model(self) -> T:
        """What the loader returned.

        Raises:
            InvalidRequest: the handle is closed.
        """
        return cast("T", self._held().model)

    @property
    def key(self) -> Hashable:
        """What it was asked for by.

        Raises:
            InvalidRequest: the handle is closed.
        """
        return self._held().key

    @property
    def closed(self) -> bool:
        return self._entry is None

    def clone(self) -> "ModelHandle[T]":
        """One more reference to the same model, to be closed for itself.

        Raises:
            InvalidRequest: the handle is closed.
        """
        with self._keeper.ledger.lock:
            entry = self._held()
            entry.references += 1
        return ModelHandle(self._keeper, entry)

    def close(self) -> None:
        """Gives the reference back: once, however often and from however many threads it is called."""
        with self._keeper.ledger.lock:
            entry, self._entry = self._entry, None
        if entry is not None:
            self._keeper.release(entry)

    def _held(self) -> Entry:
        if self._entry is None:
            raise InvalidRequest("the handle is closed", field="handle", remedy="use it before that, or a clone of it")
        return self._entry

    def __enter__(self) -> Self:
        self._held()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # weakref.finalize would nearly double the cost of a hit (make bench-registry), for handles that are closed anyway.
    def __del__(self) -> None:
        if self._entry is not None:
            self._keeper.ledger.give_back(self._entry)

    def __reduce__(self) -> NoReturn:  # a copy would be a reference that nobody counted
        raise InvalidRequest("a handle cannot be copied or pickled", field="handle", remedy="clone() it")

    def __repr__(self) -> str:
        return "<ModelHandle, closed>" if self._entry is None else f"<ModelHandle of {self._entry.key!r}>"
