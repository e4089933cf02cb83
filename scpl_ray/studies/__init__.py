"""Studies: arms, controls and seeds, their results, and what may be said of them."""
