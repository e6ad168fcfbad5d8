"""One process that owns one model and its device."""

import os
import signal

# gRPC's core reads it when it is loaded. In a pod nobody else sets it, and its lines are none of our log's.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - not a setting of ours

if __name__ == "__main__":
    # The first process of a container ignores what it has no handler for, and importing our own code takes a moment.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    from modelmora_worker.process import main

    main()
