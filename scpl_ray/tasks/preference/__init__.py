"""The preference task: answer a question. The kind of an answer is the group that prefers it."""
