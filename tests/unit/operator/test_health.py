"""Progress, in words."""

from dataclasses import replace

import pytest

from modelmora_operator.health import Pulse, Reads, alive, ready, told

GOOD = Pulse(100.0, synced=True, reads=(Reads("pods", 1.0), Reads("modeldeployments", 1.0)))


def test_all_is_well() -> None:
    assert alive(GOOD)
    assert ready(GOOD)
    assert told(GOOD) == "ok\n"


@pytest.mark.parametrize(
    ("pulse", "words"),
    [
        (replace(GOOD, reads=(Reads("pods", 700.0, allowed_age_s=600.0),)), "pods were listed last 700 s ago"),
        (replace(GOOD, oldest_s=200.0), "waited for its reconcile for 200 s"),
        (replace(GOOD, synced=False), "not everything has been listed yet"),
        (replace(GOOD, watches=("they have not begun",)), "watches do not run"),
    ],
)
def test_what_is_wrong_is_said_and_is_not_alive(pulse: Pulse, words: str) -> None:
    assert words in told(pulse)
    assert not alive(pulse)
    assert not ready(pulse)


def test_what_the_api_refuses_is_said_and_no_restart_is_asked_for() -> None:
    refused = replace(GOOD, reads=(Reads("pods", None, problem="lacks the right to list pods"),), watches=("403",))
    assert told(refused) == "lacks the right to list pods\n"
    assert alive(refused)
    assert not ready(refused)


def test_a_watch_that_is_refused_is_said_and_no_restart_is_asked_for() -> None:
    refused = replace(GOOD, refused_watches=("pods is forbidden",))
    assert told(refused) == "watches are refused: pods is forbidden\n"
    assert alive(refused)
    assert not ready(refused)


def test_at_the_start_it_is_alive_and_not_ready() -> None:
    starting = Pulse(3.0, synced=False, reads=(Reads("pods", None),))
    assert alive(starting)
    assert not ready(starting)


@pytest.mark.req("REQ-REL-002")
def test_an_api_that_is_gone_does_not_kill_it() -> None:
    gone = replace(GOOD, reads=(Reads("pods", 5000.0, unreachable_s=20.0),), watches=("connection refused",))
    assert alive(gone)
    assert not ready(gone)
    assert "since 20 s" in told(gone)
