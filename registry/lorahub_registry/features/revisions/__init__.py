"""Commits, their files, and the names that lead to them. Mechanics: who may do what is decided by the features above."""
