"""Imported by the fork server and nowhere else: when it ends, it takes its listening socket along.

The standard library leaves that to the parent, which cannot do it if it was killed. Forked children end with
os._exit and never run this.
"""

import atexit
import multiprocessing.forkserver
import multiprocessing.util
import os
import sys
from pathlib import Path


def _unlink_listener() -> None:
    address = multiprocessing.forkserver._forkserver._forkserver_address  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public name
    if isinstance(address, str) and not address.startswith("\0"):
        Path(address).unlink(missing_ok=True)
    # Registered first, so the last to run. What follows in an orderly end is native libraries that complain.
    sys.stderr.flush()
    os._exit(0)


atexit.register(_unlink_listener)
