"""The news task: continue an article; leanings of outlets are the kinds."""
