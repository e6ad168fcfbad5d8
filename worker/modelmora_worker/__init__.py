"""One process that owns one model and its device."""
