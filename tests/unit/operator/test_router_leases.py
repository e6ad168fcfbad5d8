"""Which routers live: judged by what was read, on our own clock, and never by an API that does not answer."""

import pytest

from modelmora.control import Demand, Key
from modelmora.control.trips import written
from modelmora.kube import names
from modelmora_operator.backends.router_leases import Routers, heard, read, unread
from tests.support.operator_pods import Object, lease
from tests.support.routes import trip

KEY = Key("a", "m")
WANTS = '{"a/m": [2, 10.0, 0.0]}'


def reads(start: Routers, leases: dict[str, Object], times: list[float]) -> Routers:
    for now in times:
        start = read(start, leases, now)
    return start


def every(step: float, until: float, begin: float = 0.0) -> list[float]:
    return [begin + step * number for number in range(int((until - begin) / step) + 1)]


@pytest.mark.req("RM-4.2c")
def test_a_lease_that_is_renewed_lives() -> None:
    routers = Routers()
    for now in every(3, 60):
        routers = read(routers, {"r": lease("r", renewed=now, demand=WANTS)}, now)
    assert routers.alive
    assert routers.demands == {KEY: Demand(2, 10.0)}


@pytest.mark.req("REQ-LIFE-011")
@pytest.mark.req("RM-4.2c")
def test_a_lease_that_is_not_renewed_for_its_duration_is_dead() -> None:
    stale = {"r": lease("r", renewed=0, demand=WANTS)}
    assert reads(Routers(), stale, every(3, 12)).alive
    dead = reads(Routers(), stale, every(3, 15))
    assert not dead.alive
    assert dead.demands == {}


def test_no_one_dies_while_the_api_cannot_be_read() -> None:
    stale = {"r": lease("r", renewed=0)}
    routers = reads(Routers(), stale, every(3, 12))
    for _ in range(20):
        routers = unread(routers)
    routers = reads(routers, stale, every(3, 102, begin=90))
    assert routers.alive
    assert not reads(routers, stale, [105.0]).alive


def test_an_operator_that_was_stopped_itself_counts_anew() -> None:
    stale = {"r": lease("r", renewed=0)}
    assert reads(Routers(), stale, [0.0, 3.0, 60.0]).alive


def test_who_was_dead_stays_dead_until_it_renews() -> None:
    stale = {"r": lease("r", renewed=0, demand=WANTS)}
    dead = unread(reads(Routers(), stale, every(3, 15)))
    assert not read(dead, stale, 100).alive
    assert read(dead, {"r": lease("r", renewed=100, demand=WANTS)}, 100).demands == {KEY: Demand(2, 10.0)}


def test_demand_of_the_living_adds_up() -> None:
    first, second = '{"a/m": [2, 10.0, 5.0]}', '{"a/m": [1.5, 20.0, 0.0], "a/n": [0, 1.0, 0.0]}'
    routers = read(Routers(), {"1": lease("1", 0, first), "2": lease("2", 0, second)}, 0)
    assert routers.demands == {KEY: Demand(3.5, 20.0, 5.0), Key("a", "n"): Demand(0, 1.0)}


def test_a_change_is_heard_at_once_and_a_lease_that_goes_takes_its_demand() -> None:
    routers = read(Routers(), {"r": lease("r", 0)}, 0)
    routers = heard(routers, "r", lease("r", 1, WANTS), 1)
    assert KEY in routers.demands
    gone = heard(routers, "r", None, 2)
    assert not gone.alive
    assert not read(routers, {}, 3).alive


def test_an_older_state_of_a_lease_never_replaces_a_newer_one() -> None:
    routers = read(Routers(), {"r": lease("r", 5, WANTS, version=6)}, 5, version=7)
    for older in (heard(routers, "r", lease("r", 0, version=5), 6), read(routers, {"r": lease("r", 0, version=5)}, 6)):
        assert KEY in older.demands


def test_a_router_that_came_after_a_list_was_made_is_not_taken_away_by_it() -> None:
    routers = heard(Routers(), "r", lease("r", 5, WANTS, version=9), 5)
    assert KEY in read(routers, {}, 6, version=8).demands
    assert not read(routers, {}, 6, version=10).alive


@pytest.mark.req("REQ-REL-002")
def test_what_a_watch_repeats_after_an_outage_kills_no_router() -> None:
    stale = lease("r", renewed=0, demand=WANTS)
    routers = unread(read(Routers(), {"r": stale}, 0))
    routers = heard(routers, "r", stale, 40)  # a watch that begins anew tells of all there are
    assert KEY in routers.demands
    assert KEY in read(routers, {"r": stale}, 41).demands


def test_a_lease_may_say_itself_how_long_it_lasts() -> None:
    long = {"r": lease("r", 0, duration_s=60)}
    assert reads(Routers(), long, every(3, 57)).alive
    assert not reads(Routers(), long, every(3, 60)).alive


@pytest.mark.req("RM-4.3b")
def test_what_the_living_rolled_back_counts_until_they_are_dead() -> None:
    said = {"r": lease("r", renewed=0)}
    said["r"]["metadata"]["annotations"][names.TRIPS] = written({KEY: (trip("new"),)})
    assert reads(Routers(), said, every(3, 12)).trips == {KEY: (trip("new"),)}
    assert reads(Routers(), said, every(3, 15)).trips == {}
