"""A patch over a pod, as Kubernetes itself would apply it."""

from typing import Any

import pytest

from modelmora_operator.backends.strategic_merge import PatchError, merged

POD: dict[str, Any] = {
    "containers": [
        {
            "name": "worker",
            "image": "ours",
            "args": ["a", "b"],
            "env": [{"name": "HOME", "value": "/tmp"}],
            "ports": [{"name": "call", "containerPort": 9100}],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            "securityContext": {"runAsNonRoot": True, "capabilities": {"drop": ["ALL"]}},
        }
    ],
    "tolerations": [{"key": "not-ready"}],
    "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}, {"name": "cache", "emptyDir": {}}],
}


def worker(patch: dict[str, Any]) -> dict[str, Any]:
    [container] = merged(POD, {"containers": [{"name": "worker", **patch}]})["containers"]
    return dict(container)


def test_nothing_changes_nothing() -> None:
    assert merged(POD, {}) == POD


def test_the_target_is_not_touched() -> None:
    before = repr(POD)
    merged(POD, {"containers": [{"name": "worker", "env": [{"name": "HOME", "value": "/x"}]}], "volumes": None})
    assert repr(POD) == before


def test_maps_are_merged_and_null_takes_away() -> None:
    context = worker({"securityContext": {"capabilities": {"add": ["NET_BIND_SERVICE"]}, "runAsNonRoot": None}})
    assert context["securityContext"] == {"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}


def test_nulls_of_a_new_map_are_not_kept() -> None:
    assert merged({}, {"affinity": {"nodeAffinity": None, "podAffinity": {"x": 1}}}) == {
        "affinity": {"podAffinity": {"x": 1}}
    }


def test_items_with_a_key_are_merged_by_it() -> None:
    changed = worker(
        {
            "env": [{"name": "A", "value": "1"}, {"name": "HOME", "value": "/home"}],
            "ports": [{"containerPort": 9100, "hostPort": 80}],
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }
    )
    assert changed["env"] == [{"name": "HOME", "value": "/home"}, {"name": "A", "value": "1"}]
    assert changed["ports"] == [{"name": "call", "containerPort": 9100, "hostPort": 80}]
    assert [mount["mountPath"] for mount in changed["volumeMounts"]] == ["/tmp", "/data"]
    assert changed["image"] == "ours"


def test_other_lists_are_replaced() -> None:
    assert worker({"args": ["c"]})["args"] == ["c"]
    assert merged(POD, {"tolerations": [{"key": "gpu"}]})["tolerations"] == [{"key": "gpu"}]


def test_an_item_can_be_deleted_and_a_list_be_replaced() -> None:
    deleted = merged(POD, {"volumes": [{"name": "cache", "$patch": "delete"}]})
    assert [volume["name"] for volume in deleted["volumes"]] == ["tmp"]
    replaced = merged(POD, {"volumes": [{"$patch": "replace"}, {"name": "mine", "hostPath": {"path": "/x"}}]})
    assert replaced["volumes"] == [{"name": "mine", "hostPath": {"path": "/x"}}]
    assert worker({"env": [{"$patch": "replace"}]})["env"] == []


def test_an_item_can_be_replaced() -> None:
    assert worker({"$patch": "replace", "image": "theirs"}) == {"name": "worker", "image": "theirs"}


def test_a_map_can_be_replaced_or_deleted() -> None:
    assert worker({"securityContext": {"$patch": "replace", "privileged": True}})["securityContext"] == {
        "privileged": True
    }
    assert "securityContext" not in worker({"securityContext": {"$patch": "delete"}})


def test_a_volume_named_again_is_of_one_kind() -> None:
    claimed = merged(POD, {"volumes": [{"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}]})
    assert claimed["volumes"][1] == {"name": "cache", "persistentVolumeClaim": {"claimName": "c"}}
    limited = merged(POD, {"volumes": [{"name": "tmp", "emptyDir": {"sizeLimit": "1Gi"}}]})
    assert limited["volumes"][0] == {"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        ({"containers": [{"image": "x"}]}, "spec.containers[0]"),
        ({"containers": ["x"]}, "spec.containers[0]"),
        ({"containers": [{"name": ["worker"]}]}, "spec.containers[0].name"),
        ({"containers": [{"name": None}]}, "spec.containers[0].name"),
        ({"containers": "x"}, "spec.containers"),
        ({"tolerations": 3}, "spec.tolerations"),
        ({"containers": [{"name": "worker", "securityContext": "none"}]}, "spec.containers[0].securityContext"),
        ({"$setElementOrder/containers": []}, "spec.$setElementOrder/containers"),
        ({"volumes": [{"name": "x", "$patch": "remove"}]}, "spec.volumes[0].$patch"),
        ({"securityContext": {"$retainKeys": []}}, "spec.securityContext.$retainKeys"),
    ],
)
def test_what_does_not_fit_is_named(patch: dict[str, Any], path: str) -> None:
    with pytest.raises(PatchError) as caught:
        merged(POD, patch, path="spec")
    assert caught.value.path == path
