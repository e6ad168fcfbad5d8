"""Watchers of the local control see the newest state, never an older one."""

import asyncio
from collections.abc import AsyncIterator

from modelmora.control import Demand, Key
from modelmora.control.local import LocalControl
from modelmora.watching import Cell
from tests.support.routes import trip


async def first_of(watch: AsyncIterator[int]) -> int:
    return await anext(watch)


async def test_a_watch_waits_until_there_is_a_value() -> None:
    cell: Cell[int] = Cell()
    watch = cell.watch()
    async with asyncio.TaskGroup() as group:
        first = group.create_task(first_of(watch))
        await asyncio.sleep(0)
        assert not first.done()
        cell.set(1)
    assert first.result() == 1


async def test_a_slow_watcher_skips_what_is_over() -> None:
    cell: Cell[int] = Cell()
    cell.set(1)
    watch = cell.watch()
    assert await anext(watch) == 1
    for value in (2, 3, 4):
        cell.set(value)
    assert await anext(watch) == 4


async def test_a_change_while_the_watcher_works_is_not_lost() -> None:
    cell: Cell[int] = Cell()
    cell.set(1)
    seen = []
    async for value in cell.watch():
        seen.append(value)
        if value == 1:
            cell.set(2)  # before the watcher waits again
        if value == 2:
            break
    assert seen == [1, 2]


async def test_an_equal_value_wakes_nobody() -> None:
    cell: Cell[int] = Cell()
    cell.set(1)
    watch = cell.watch()
    await anext(watch)
    cell.set(1)
    cell.set(2)
    assert await anext(watch) == 2


async def test_the_published_demand_is_a_copy() -> None:
    control = LocalControl()
    demands = {Key("default", "a"): Demand(load=1, last_used_at=0)}
    await control.publish_demand(demands)
    demands.clear()
    assert control.demands.value is not None
    assert len(control.demands.value) == 1


async def test_published_trips_are_a_copy() -> None:
    control = LocalControl()
    trips = {Key("default", "route"): (trip(),)}
    await control.publish_trips(trips)
    trips.clear()
    assert control.trips.value == {Key("default", "route"): (trip(),)}


async def test_a_closed_cell_ends_its_watches_after_the_last_value() -> None:
    cell: Cell[int] = Cell()
    cell.set(1)
    watch = cell.watch()
    assert await anext(watch) == 1
    cell.set(2)
    cell.close()
    assert [value async for value in watch] == [2]
    assert [value async for value in cell.watch()] == [2]
