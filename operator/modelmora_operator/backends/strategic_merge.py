"""A strategic merge patch over a pod, as `kubectl patch` would apply it; values in, values out.

Maps are merged, null takes a field away, lists are replaced; but a list whose items have a key that identifies them is
merged by it. `$patch: replace` and `$patch: delete` say otherwise, in a map or in an item of such a list. As with
`kubectl apply`, a volume that is named again is only what the patch says of it: it cannot be of two kinds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

# By the field's name alone, which in a pod means the same wherever it stands.
_KEYS: Final = {
    "containers": "name",
    "env": "name",
    "ephemeralContainers": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "resourceClaims": "name",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
_ONLY_WHAT_IS_SAID: Final = frozenset({"volumes", "resourceClaims"})
_DIRECTIVE: Final = "$patch"
_WISHES: Final = ("merge", "replace", "delete")


class PatchError(Exception):
    """The patch cannot be applied."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path = path


def merged(target: Mapping[str, Any], patch: Mapping[str, Any], *, path: str = "") -> dict[str, Any]:
    """The target with the patch applied; `path` is where the patch stands, for messages.

    Raises:
        PatchError: the patch does not fit.
    """
    if _wish(patch, path) == "replace":
        return _plain(patch, path)
    result = dict(target)
    for name, value in patch.items():
        if name.startswith("$"):
            _check_directive(name, path)
        elif value is None or _is_delete(value, f"{path}.{name}"):
            result.pop(name, None)
        else:
            result[name] = _merged_field(name, result.get(name), value, f"{path}.{name}")
    return result


def _merged_field(name: str, old: object, new: object, path: str) -> object:
    if isinstance(old, Mapping | list) and not isinstance(new, Mapping if isinstance(old, Mapping) else list):
        raise PatchError(path, f"must be a {'map' if isinstance(old, Mapping) else 'list'}")
    if isinstance(new, Mapping):
        return merged(old, new, path=path) if isinstance(old, Mapping) else _plain(new, path)
    if not isinstance(new, list):
        return new
    if name not in _KEYS:
        return [_plain(item, path) if isinstance(item, Mapping) else item for item in new]
    return _merged_list(name, old if isinstance(old, list) else [], new, path)


def _merged_list(name: str, old: Sequence[Any], new: Sequence[Any], path: str) -> list[Any]:
    key = _KEYS[name]
    items = [_item(item, key, f"{path}[{index}]") for index, item in enumerate(new)]
    result = {} if any(key not in item for _, item in items) else {item[key]: item for item in old}
    for where, item in items:
        if key not in item:
            continue
        if _wish(item, where) == "delete":
            result.pop(item[key], None)
            continue
        before = result.get(item[key], {})
        if name in _ONLY_WHAT_IS_SAID:
            before = {field: value for field, value in before.items() if field in item}
        result[item[key]] = merged(before, item, path=where)
    return list(result.values())


def _item(item: object, key: str, path: str) -> tuple[str, Mapping[str, Any]]:
    """With its place. One without a key says that the others replace the whole list, or is wrong."""
    if not isinstance(item, Mapping):
        raise PatchError(path, "must be a map")
    if key not in item and _wish(item, path) != "replace":
        raise PatchError(path, f"has no {key}, by which it is merged")
    if key in item and not isinstance(item[key], str | int):
        raise PatchError(f"{path}.{key}", "must be a word or a number")
    return path, item


def _plain(patch: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What a patch makes of nothing."""
    return merged({}, {name: value for name, value in patch.items() if name != _DIRECTIVE}, path=path)


def _is_delete(value: object, path: str) -> bool:
    return isinstance(value, Mapping) and _wish(value, path) == "delete"


def _wish(patch: Mapping[str, Any], path: str) -> str:
    wish = patch.get(_DIRECTIVE, "merge")
    if wish not in _WISHES:
        raise PatchError(f"{path}.{_DIRECTIVE}", f"must be one of {', '.join(_WISHES)}")
    return str(wish)


def _check_directive(name: str, path: str) -> None:
    if name != _DIRECTIVE:
        raise PatchError(f"{path}.{name}", f"is no directive that is known here; {_DIRECTIVE} is")
