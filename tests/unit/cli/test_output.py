"""What people and machines see."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from modelmora import errors
from modelmora.cli.app import exit_code
from modelmora.cli.output import age, jsonable, short, show_error

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ago", "expected"),
    [(None, "-"), (0, "0s"), (59, "59s"), (60, "1m"), (7199, "1h"), (90000, "1d"), (-5, "0s")],
    ids=["never", "now", "seconds", "minutes", "hours", "days", "clocks-differ"],
)
def test_age(ago: int | None, expected: str) -> None:
    moment = None if ago is None else NOW - timedelta(seconds=ago)
    assert age(moment, now=NOW) == expected


def test_an_array_is_shortened_for_people_and_whole_for_machines() -> None:
    array = np.arange(8, dtype="float32").reshape(1, 8)
    assert short(array) == "float32 1×8  [0.0000, 1.0000, 2.0000, 3.0000, 4.0000, 5.0000, …]"
    assert jsonable(array) == [[0, 1, 2, 3, 4, 5, 6, 7]]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ModelNotFound("x"), 1),
        (errors.QueueFull("x"), 1),
        (errors.InvalidSettings("x"), 2),
        (errors.AddressInUse("x"), 2),
        (errors.ServerUnavailable("x"), 3),
    ],
    ids=lambda value: getattr(value, "code", str(value)),
)
def test_exit_codes(error: errors.ModelMoraError, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_shows_what_to_do(capsys: Any) -> None:
    show_error(errors.InvalidRequest("input.text is empty", model_id="m", field="input.text", remedy="give [a] text"))
    shown = capsys.readouterr().err
    assert shown.splitlines() == [
        "error: input.text is empty",
        "  model: m",
        "  field: input.text",
        "  what to do: give [a] text",
    ]
