"""`python -m modelmora_router`: the router in a cluster."""

from modelmora_router.program import main

if __name__ == "__main__":
    main()
