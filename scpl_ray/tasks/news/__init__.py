"""The news task: continue an article. The kinds are the leanings of outlets."""
