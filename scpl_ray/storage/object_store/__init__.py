"""Run directories in an object store: a mirror, a lease, and the objects themselves."""
