"""Keeping the promises of ARCHITECTURE.md: garbage collection and fsck."""
