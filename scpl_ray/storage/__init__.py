"""Everything that is stored on disk: run directories, manifests and caches, and how they are located."""
