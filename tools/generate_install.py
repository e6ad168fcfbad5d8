"""Writes install.yaml, the chart with its defaults for `kubectl apply -k`. Usage: generate_install.py [OUT]

Into charts/kustomize, unless told otherwise. Needs helm. Hooks are left out, since nothing would run them, and so is
what speaks of helm.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
OLDEST: Final = "1.29.0"  # the oldest Kubernetes that the chart allows
HEAD: Final = "# Generated from charts/modelmora by tools/generate_install.py; do not edit.\n"


def install(helm: str) -> str:
    """The text of install.yaml, as that helm renders it."""
    texts = [yaml.safe_dump(made, sort_keys=False, width=200) for made in _objects(_rendered(helm))]
    return HEAD + "---\n".join(texts)


def _rendered(helm: str) -> str:
    place = ("--namespace", "modelmora-system", "--kube-version", OLDEST, "--no-hooks")
    command = [helm, "template", "modelmora", str(ROOT / "charts" / "modelmora"), *place]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _objects(text: str) -> Iterator[dict[str, Any]]:
    for made in yaml.safe_load_all(text):
        if made:
            for metadata in (made["metadata"], made.get("spec", {}).get("template", {}).get("metadata", {})):
                _without_helm(metadata)
            yield made


def _without_helm(metadata: dict[str, Any]) -> None:
    for name in ("labels", "annotations"):
        known = metadata.pop(name, None) or {}
        kept = {key: value for key, value in known.items() if not key.startswith("helm.sh/") and value != "Helm"}
        if kept:
            metadata[name] = kept


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "charts" / "kustomize"
    helm = shutil.which("helm") or str(ROOT / ".make" / "bin" / "helm")
    if Path(helm).exists():
        (out / "install.yaml").write_text(install(helm), encoding="utf-8")
    else:
        sys.stderr.write("install.yaml was not written: there is no helm (tools/install-helm builds one)\n")
