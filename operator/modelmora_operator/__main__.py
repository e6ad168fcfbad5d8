"""python -m modelmora_operator: the operator of a cluster; stop-workers: ends all workers before it is uninstalled."""

import argparse
import asyncio
import os
import sys

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - not a setting of ours; its lines are no JSON

import structlog

from modelmora.errors import ModelMoraError, SetupError
from modelmora.kube.api import KubeError
from modelmora.telemetry import configure_logging
from modelmora_operator import cluster_settings, program
from modelmora_operator.cluster_settings import KubernetesOperatorSettings
from modelmora_operator.stop_workers import stop_workers

_STOP_WORKERS = "stop-workers"
_TIMEOUT_S = 120.0

log = structlog.get_logger(__name__)


def main() -> int:
    """The exit code."""
    arguments = _parser().parse_args()
    try:
        settings = cluster_settings.read()
        configure_logging(log_format=settings.log_format, level=settings.log_level.value)
        work = _stop_workers(settings, arguments) if arguments.command == _STOP_WORKERS else _operate(settings)
        return asyncio.run(work)
    except (ModelMoraError, KubeError, ExceptionGroup) as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Tells it in words; a bug keeps its traceback."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if not isinstance(error, (ModelMoraError, KubeError)):
        raise error
    remedy = error.context.remedy if isinstance(error, ModelMoraError) else "see the message of the API server"
    log.error("the operator cannot run", cause=str(error), remedy=remedy)
    return 2 if isinstance(error, SetupError) else 1


async def _operate(settings: KubernetesOperatorSettings) -> int:
    await program.run(settings)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelmora_operator", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    stop = commands.add_parser(_STOP_WORKERS, help="end all worker pods and wait until they are gone")
    stop.add_argument("--operator-deployment", help="the operator's own Deployment, which is deleted first")
    stop.add_argument("--timeout-s", type=float, default=_TIMEOUT_S, help="for all of it (default: %(default)s)")
    return parser


async def _stop_workers(settings: KubernetesOperatorSettings, arguments: argparse.Namespace) -> int:
    async with program.connected(settings) as kube:
        ended = await stop_workers(
            kube,
            settings.namespaces,
            home=settings.namespace,
            operator=arguments.operator_deployment,
            timeout_s=arguments.timeout_s,
        )
    return 0 if ended else 1


if __name__ == "__main__":
    sys.exit(main())
