"""The operator of one machine as a program, with dummy workers: for tests that kill it. Arguments: state, manifests."""

import os
import sys
from pathlib import Path

import uvloop

from modelmora.control.local import LocalControl
from modelmora_operator import local
from modelmora_operator.backends.launching import WorkerProgram
from modelmora_operator.settings import OperatorSettings

PROGRAM = WorkerProgram("tests.support.dummy_worker:run", "tests.support.dummy_worker", "tests.support.dummy_preload")


def main() -> None:
    """As `modelmora serve` without a router, on the event loop that it has."""
    state_dir, manifests = (Path(argument) for argument in sys.argv[1:])
    settings = OperatorSettings(state_dir=state_dir, cache_dir=state_dir)
    environment = dict(os.environ)  # noqa: TID251 - for its workers
    uvloop.run(local.run(settings, LocalControl(), environment=environment, paths=[manifests], program=PROGRAM))


if __name__ == "__main__":
    main()
