"""`python -m modelmora_router`: the router in a cluster."""

import os

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # noqa: TID251 - not a setting of ours; its lines are no JSON

from modelmora_router.starting import main

if __name__ == "__main__":
    main()
