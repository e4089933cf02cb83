"""The processes that Ray keeps alive between rounds."""
