"""Where workers run. The backends never import each other."""
