"""The port to the Kubernetes API, where there is none that could answer."""

from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import ConfigException

from modelmora.errors import InvalidSettings, ServerUnavailable
from modelmora.kube.api import PODS, Kube

_CONTEXT = """
apiVersion: v1
kind: Config
current-context: a
contexts: [{name: a, context: {cluster: a, user: a}}]
users: [{name: a, user: {token: secret}}]
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a word",
        "clusters: 5",
        "a: [b",
        "\0",
        "apiVersion: v1\nkind: Config",
        _CONTEXT,
        _CONTEXT + "clusters: [{name: a, cluster: {server: 'https://x', certificate-authority: /none}}]",
        _CONTEXT + "clusters: [{name: a, cluster: {server: 'https://x', certificate-authority-data: 'bm9uZQ=='}}]",
    ],
)
async def test_a_file_that_is_no_kubeconfig_is_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(text)
    with pytest.raises(InvalidSettings, match="no way to a Kubernetes API") as refused:
        await Kube.connect(file)
    assert refused.value.context.file == str(file)
    assert "secret" not in refused.value.message


async def test_a_token_that_cannot_be_read_for_a_moment_is_no_end() -> None:
    def read_token(_: Configuration) -> None:
        raise ConfigException("Token file exists but empty.")

    configuration: Any = Configuration(host="http://127.0.0.1:9", api_key={"BearerToken": "Bearer old"})
    configuration.refresh_api_key_hook = read_token
    kube = Kube(ApiClient(configuration))
    with pytest.raises(ServerUnavailable, match="Token file exists but empty"):
        await kube.get(PODS, "default", "a")
    await kube.close()
