"""The jobs that a user starts: the command line, and one module per job."""
