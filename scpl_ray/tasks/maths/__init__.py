"""The maths task: solve a problem; answers are checked, sources of problems are the kinds."""
