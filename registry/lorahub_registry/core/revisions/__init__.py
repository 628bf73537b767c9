"""Commits, their files, and the names that lead to them. Who may do what is decided above."""
