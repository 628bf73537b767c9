"""Merged revisions: complete models that are computed while they are read."""
