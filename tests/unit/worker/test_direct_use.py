"""How a worker counts the callers at its own socket."""

import pytest

from modelmora_worker.direct_use import DirectMeter
from modelmora_worker.lifecycle import DirectUse, Lifecycle, to_update


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_load_is_what_was_open_on_average_since_the_last_look() -> None:
    clock = Clock()
    meter = DirectMeter(clock)
    assert meter.use() == DirectUse(0, 0.0)
    with meter.call():
        clock.now += 1
        with meter.call():
            clock.now += 1
    clock.now += 2
    assert meter.use() == DirectUse(2, 0.75)
    clock.now += 2
    assert meter.use() == DirectUse(2, 0.0)


def test_a_call_that_goes_on_counts_in_every_look() -> None:
    clock = Clock()
    meter = DirectMeter(clock)
    with meter.call():
        assert meter.use() == DirectUse(1, 1.0)
        clock.now += 2
        assert meter.use() == DirectUse(1, 1.0)
        clock.now += 2
        assert meter.use() == DirectUse(1, 1.0)


def test_a_call_that_fails_is_over() -> None:
    clock = Clock()
    meter = DirectMeter(clock)
    with pytest.raises(ValueError, match="no"), meter.call():
        raise ValueError("no")
    meter.use()
    clock.now += 1
    assert meter.use() == DirectUse(1, 0.0)


def test_it_is_told_with_the_status() -> None:
    lifecycle = Lifecycle()
    lifecycle.used_directly(DirectUse(7, 1.5))
    update = to_update(lifecycle.state, pid=1)
    assert (update.direct_requests, update.direct_load) == (7, 1.5)
