"""Which tests run where; what could not run is named in one line at the end."""

import os
import shutil
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from tests.support import prometheus
from tests.support.helm import helm, program

__all__ = ["helm"]  # a fixture

# How long an example takes says more of the machine than of the code.
hypothesis_settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("any machine")

_ENVIRONMENT = os.environ  # noqa: TID251 - a test run has no settings class


def _lacking() -> Iterator[tuple[str, str]]:
    """The markers of tests that cannot run on this machine, and why."""
    if not _ENVIRONMENT.get("KUBECONFIG"):
        yield "cluster", "no Kubernetes (KUBECONFIG is not set)"
    elif not (_ENVIRONMENT.get("KUBECTL") or shutil.which("kubectl")):
        yield "cluster", "no kubectl (neither KUBECTL nor PATH has one)"
    if shutil.which("nvidia-smi") is None:
        yield "gpu", "no NVIDIA GPU"
    if program() is None:
        yield "helm", "no helm (tools/install-helm builds one where there is Go)"
    if prometheus.program() is None or prometheus.program("promtool") is None:
        yield "prometheus", "no prometheus (tools/install-prometheus unpacks one where there is apt-get)"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for marker, why in _lacking():
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=why))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = " ".join(str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    if missing := [why for _, why in _lacking() if why in skipped]:
        terminalreporter.write_line(f"not tested here: {'; '.join(missing)}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run that needed what it has not: MODELMORA_TEST_REQUIRE="cluster gpu"."""
    required = _ENVIRONMENT.get("MODELMORA_TEST_REQUIRE", "").split()
    if any(marker in required for marker, _ in _lacking()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
