"""Studies: their arms, controls and seeds, their results, and the statistical conclusions."""
