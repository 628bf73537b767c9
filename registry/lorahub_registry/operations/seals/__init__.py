"""Seals of the audit log, which prove that it is what it was."""
