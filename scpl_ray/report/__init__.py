"""What a study or single runs say, on one page."""
