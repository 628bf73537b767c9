"""Trusted publishing: a CI job proves who it is by its issuer's signature, and gets a short-lived token."""
