"""One round as a chain of scripts by other hands, each a process of its own, beside a round of this project."""
