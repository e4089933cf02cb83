"""The driver: what a run, a study and its trials do, from the first check to the last line of output."""
