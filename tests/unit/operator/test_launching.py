"""When workers are forked, and when they are started from nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from modelmora_operator.backends.children import Child
from modelmora_operator.backends.forkserver import WarmParent
from modelmora_operator.backends.launching import FreshLauncher, Launch, WarmLauncher, WorkerProgram

FORKED, FRESH = cast("Child", "forked"), cast("Child", "fresh")


class Parent:
    """A warm parent that does what it is told: True warms up or forks, False does not."""

    def __init__(self, warm_ups: list[bool], forks: list[bool]) -> None:
        self.warm_ups, self.forks = iter(warm_ups), iter(forks)
        self.warmed_up = 0

    async def warm_up(self) -> bool:
        self.warmed_up += 1
        return next(self.warm_ups)

    async def fork(self, entry: str, argument: str) -> Child:
        if next(self.forks):
            return FORKED
        raise EOFError

    async def close(self) -> None: ...


class Fresh(FreshLauncher):
    async def launch(self, launch: Launch) -> Child:
        return FRESH


async def launched(parent: Parent, times: int, environment: Mapping[str, str] | None = None) -> list[Any]:
    program = WorkerProgram()
    launcher = WarmLauncher(program, cast("WarmParent", parent), Fresh(program, {}))
    launch = Launch("{}", Path("settings.json"), environment or {})
    return [await launcher.launch(launch) for _ in range(times)]


async def test_a_warm_parent_that_ended_is_replaced_for_the_next_worker() -> None:
    parent = Parent(warm_ups=[True, True], forks=[True, False, True])
    assert await launched(parent, 3) == ["forked", "fresh", "forked"]
    assert parent.warmed_up == 2


async def test_a_warm_parent_that_cannot_be_started_is_not_tried_for_ever() -> None:
    parent = Parent(warm_ups=[False] * 5, forks=[])
    assert await launched(parent, 8) == ["fresh"] * 8
    assert parent.warmed_up == 5


@pytest.mark.parametrize("environment", [{"A": "1"}], ids=["one"])
async def test_a_model_with_an_environment_is_started_from_nothing(environment: dict[str, str]) -> None:
    parent = Parent(warm_ups=[], forks=[])
    assert await launched(parent, 1, environment) == ["fresh"]
