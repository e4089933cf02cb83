"""The maths task: solve a problem. Answers are checked, and the kinds are the sources of problems."""
