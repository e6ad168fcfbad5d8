"""A router's demand and its trips as a Lease, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Demand, Key, Trip
from modelmora.control.leases import Holder, demands_of, lease, owned_lease, trips_of, written
from modelmora.kube import names

NOW = 1_767_312_000.25  # 2026-01-02T00:00:00.25Z
ONE = Key("models", "one")
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
SECONDS = st.integers(0, 2_000_000_000).map(float)
DEMANDS = st.dictionaries(
    st.builds(Key, NAMES, NAMES),
    st.builds(Demand, st.floats(0, 1e6), SECONDS, SECONDS, st.integers(0, 4), SECONDS),
    max_size=5,
)


@given(DEMANDS)
def test_a_demand_survives_its_lease(demands: dict[Key, Demand]) -> None:
    assert demands_of(lease("router-a", demands, NOW)) == demands


def test_a_lease_says_who_holds_it_and_since_when() -> None:
    body = lease("router-a", {}, NOW)
    assert body["spec"] == {
        "holderIdentity": "router-a",
        "leaseDurationSeconds": 15,
        "renewTime": "2026-01-02T00:00:00.250000Z",
    }
    assert body["metadata"]["labels"] == {names.COMPONENT: names.ROUTER_DEMAND}


def test_equal_demands_are_written_equally() -> None:
    one, two = Demand(1, 2), Demand(3, 4)
    other = Key("models", "two")
    assert written({ONE: one, other: two}) == written({other: two, ONE: one})


@pytest.mark.parametrize(("uid", "owners"), [("", None), ("u1", ["u1"])])
def test_a_pod_owns_the_lease_of_its_router(uid: str, owners: list[str] | None) -> None:
    metadata = owned_lease(Holder("system", "router-a", uid), {}, NOW)["metadata"]
    found = metadata.get("ownerReferences")
    assert (found and [owner["uid"] for owner in found]) == owners


def test_the_leases_of_several_processes_belong_to_one_pod() -> None:
    holder = Holder("system", "router-a-2", "u1", pod_name="router-a")
    body = owned_lease(holder, {}, NOW)
    assert body["spec"]["holderIdentity"] == "router-a-2"
    assert [owner["name"] for owner in body["metadata"]["ownerReferences"]] == ["router-a"]


@pytest.mark.parametrize(
    "annotations",
    [None, {}, {names.DEMAND: ""}, {names.DEMAND: "[]"}, {names.DEMAND: "1"}, {names.DEMAND: None}],
    ids=str,
)
def test_a_lease_without_a_demand_wants_nothing(annotations: object) -> None:
    assert demands_of({"metadata": {"annotations": annotations}}) == {}
    assert demands_of({}) == {}


def test_entries_of_a_newer_router_that_cannot_be_understood_are_left_out() -> None:
    said = '{"models/one":[1,2,3,"more"],"models/two":{"load":1},"three":[1,2,3],"models/four":[1]}'
    assert demands_of({"metadata": {"annotations": {names.DEMAND: said}}}) == {ONE: Demand(1.0, 2.0, 3.0)}


# ------------------------------------------------------------------------------------------------ trips

TRIP = Trip("uid", 3, "new", "14 of 52 requests of 60 s failed (InferenceFailed)")
TRIPS = st.dictionaries(
    st.builds(Key, NAMES, NAMES),
    st.lists(st.builds(Trip, NAMES, st.integers(0, 9), NAMES, st.text(max_size=300)), min_size=1, max_size=3).map(
        tuple
    ),
    max_size=5,
)


@given(TRIPS, DEMANDS)
def test_trips_survive_their_lease_beside_the_demand(
    tripped: dict[Key, tuple[Trip, ...]], demands: dict[Key, Demand]
) -> None:
    body = lease("router-a", demands, NOW, tripped)
    assert trips_of(body) == tripped
    assert demands_of(body) == demands


def test_a_lease_without_trips_is_that_of_an_older_router() -> None:
    assert names.TRIPS not in lease("router-a", {}, NOW, {})["metadata"]["annotations"]
    assert trips_of(lease("router-a", {}, NOW)) == {}


def test_a_pod_owns_the_lease_with_its_trips() -> None:
    assert trips_of(owned_lease(Holder("system", "router-a", "u1"), {}, NOW, {ONE: (TRIP,)})) == {ONE: (TRIP,)}


@pytest.mark.parametrize("said", ["", "[]", "1", None, "{", '{"a":1}', '{"models/one":[]}', '{"models/one":[[1,2]]}'])
def test_trips_that_cannot_be_understood_are_none(said: object) -> None:
    assert trips_of({"metadata": {"annotations": {names.TRIPS: said}}}) == {}
    assert trips_of({"metadata": {"annotations": None}}) == trips_of({}) == {}


def test_trips_of_a_newer_router_that_say_more_are_understood() -> None:
    said = '{"models/one":[["uid",3,"new","words","more"],["uid","3","new","words"],5],"one":[["uid",3,"new","w"]]}'
    assert trips_of({"metadata": {"annotations": {names.TRIPS: said}}}) == {ONE: (Trip("uid", 3, "new", "words"),)}


def test_of_very_many_trips_a_lease_holds_what_fits() -> None:
    """Else the API server would refuse it, and with it the demand."""
    tripped = {Key("n" * 63, f"{number:063}"): (Trip("u" * 36, 1, "b" * 63, "\x00" * 5000),) for number in range(2000)}
    body = lease("router-a", {}, NOW, tripped)
    assert len(body["metadata"]["annotations"][names.TRIPS]) < 128 * 1024
    assert trips_of(body).keys() <= tripped.keys()
    assert len(trips_of(body)) >= 20


@pytest.mark.parametrize(
    ("said", "understood"),
    [
        ("[1,2,3]", Demand(1, 2, 3)),
        ("[1,2,3,1]", Demand(1, 2, 3)),
        ("[1,2,3,1,50.5]", Demand(1, 2, 3, 1, 50.5)),
        ('[1,2,3,4,0,"more"]', Demand(1, 2, 3, 4)),
        ("[1,2,3,9,50]", Demand(1, 2, 3)),
        ("[1,2,3,-1,50]", Demand(1, 2, 3)),
        ("[1,2,3,null,50]", Demand(1, 2, 3)),
    ],
)
def test_a_router_of_another_version_may_say_less_or_more(said: str, understood: Demand) -> None:
    annotations = {names.DEMAND: f'{{"models/one":{said}}}'}
    assert demands_of({"metadata": {"annotations": annotations}}) == {ONE: understood}
