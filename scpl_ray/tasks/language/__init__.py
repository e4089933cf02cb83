"""The built-in task: a small artificial language whose true distribution is known."""

UNMARKED_KEPT = {"drawn": 0.05, "even": 1.0}
"""Fraction of the unmarked prompts that is kept in real text, by ``task.real_text``.

A model that has seen many unmarked prompts has learned the conditional distribution of their answers well, and more
queries of one group do not change it (covariate shift). The loop would then show nothing on neutral prompts. The real
text on which the base model is trained therefore contains few of them, while users continue to ask them. From so few a
base model gets a lean by chance, so that even text keeps them all: there selection moves what is learned of them.
"""
LEAST_MARKED = {"even": 0.05}
"""Smallest ``task.marker_strength``, by ``task.real_text``.

Even text spreads groups over all prompts, and kinds over the prompts of each marker, by one and the same sequence. What
keeps the two apart is that markers interrupt them: where nearly no prompt has one, the kind follows from the group.
"""
