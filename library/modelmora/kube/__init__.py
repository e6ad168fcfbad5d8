"""The Kubernetes API as our programs use it: a small port of JSON calls, and the names that our objects carry there.

    api        the port: list, watch, create, apply, delete; errors with the server's own words
    following  the whole present state of one kind of object, after every change
    rights     which rights a program lacks, before it begins
    names      labels, annotations and ports by which operator, router and workers find each other

Needs the package kubernetes: it comes with the extras [operator] and [router], not with the light client.
"""
