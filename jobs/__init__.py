"""What one submits: the command line and one module per job."""
