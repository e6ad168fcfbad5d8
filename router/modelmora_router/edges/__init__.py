"""The protocols: each translates to a call and back, and decides nothing."""
