"""Repositories that travel in a file: to a registry that no network reaches."""
