"""One process that owns one model and its device."""

import os
import signal

if __name__ == "__main__":
    # The first process of a container ignores what it has no handler for, and importing our own code takes a moment.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    from modelmora_worker.process import main

    main()
