"""The preference task: answer a question; what each group prefers is its kind."""
