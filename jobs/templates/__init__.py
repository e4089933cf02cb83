"""Files that ``scpl init`` writes."""
