"""The command line. The only package that may import operator, router and worker, and only inside `serve`."""
