"""The page that a study or a run is read by."""
