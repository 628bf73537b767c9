"""Bringing bytes in: Git-LFS, Xet, and the one way from received to verified."""
