"""``scpl doctor --gpu``: what a run needs of its devices, tried in minutes with small models of random weights."""
