"""What runs in a process that the fork server has forked. Imported there too: so this imports next to nothing.

Names come as texts ("package.module:function") and are looked up here, in the child: the operator never imports the
worker's code.
"""

import importlib
import multiprocessing
import signal
import sys
from multiprocessing.connection import Connection


def run(entry: str, argument: str) -> None:
    """Calls the function of that name."""
    # Ctrl-C goes to the whole process group; the parent decides what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Daemonic for the parent's exit only: an engine may well start processes of its own.
    multiprocessing.current_process().daemon = False
    module, _, function = entry.partition(":")
    getattr(importlib.import_module(module), function)(argument)


def report_preload(module: str, answer: Connection) -> None:
    """Sends what went wrong with the preload, as a text; empty if nothing."""
    answer.send(_preload_failure(module))
    answer.close()


def _preload_failure(module: str) -> str:
    loaded = sys.modules.get(module)
    if loaded is not None:
        return str(getattr(loaded, "failure", None) or "")
    try:
        importlib.import_module(module)
    except ImportError as error:  # the fork server swallows it
        return f"{type(error).__name__}: {error}"
    return f"{module} can be imported here, but could not in the fork server"
