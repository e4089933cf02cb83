"""The built-in task: a small artificial language whose true distribution is known."""
