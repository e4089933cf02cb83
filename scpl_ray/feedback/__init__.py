"""How users react to the model: the feedback rules, the simulated population, and the stability of the loop."""
