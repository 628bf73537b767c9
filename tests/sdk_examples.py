"""Modules whose docstrings have examples that need more than Python; tests/hub/test_sdk.py runs them with it."""

NEED_A_REGISTRY = (
    "lorahub.hub.events",
    "lorahub.hub.outcomes",
    "lorahub.hub.hub",
    "lorahub.hub.organisations",
    "lorahub.hub.registered_bases",
    "lorahub.hub.shortcuts",
)
NEED_A_MODEL = ("lorahub.training.run", "lorahub.serving.session")
"""In the order in which they are run: one trains the adapter that the other loads."""
