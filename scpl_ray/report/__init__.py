"""The report page of a study or a run."""
