"""Repositories: names, visibility, settings, access lists, likes."""
