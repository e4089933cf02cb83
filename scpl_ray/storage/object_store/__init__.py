"""Run directories in an object store: the local mirror, the lease (lock), and access to the objects."""
