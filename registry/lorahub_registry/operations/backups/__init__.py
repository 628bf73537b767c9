"""Copies of a whole registry, made while it runs, and a registry made of one."""
