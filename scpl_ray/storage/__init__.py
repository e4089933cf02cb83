"""What lies on disk: run directories, manifests, caches, and where they are."""
