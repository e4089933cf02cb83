"""How users react: feedback rules, the population, and whether the loop is stable."""
