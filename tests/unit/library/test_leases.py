"""A router's demand as a Lease, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelmora.control import Demand, Key
from modelmora.control.leases import Holder, demands_of, lease, owned_lease, written
from modelmora.kube import names

NOW = 1_767_312_000.25  # 2026-01-02T00:00:00.25Z
ONE = Key("models", "one")
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
SECONDS = st.integers(0, 2_000_000_000).map(float)
DEMANDS = st.dictionaries(
    st.builds(Key, NAMES, NAMES), st.builds(Demand, st.floats(0, 1e6), SECONDS, SECONDS), max_size=5
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
