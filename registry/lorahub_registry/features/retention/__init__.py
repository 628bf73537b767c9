"""Retention: repositories that keep their newest versions and whatever has a name, and let go of the rest."""
