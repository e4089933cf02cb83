"""What Ray keeps alive between rounds."""
