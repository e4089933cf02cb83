"""The built-in task: a small made-up language whose true distribution is known."""
