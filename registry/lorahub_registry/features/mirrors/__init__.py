"""Mirrors: repositories that follow one of another hub, commit by commit, fetched by a worker."""
