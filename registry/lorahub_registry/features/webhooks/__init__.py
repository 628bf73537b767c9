"""Webhooks: addresses that are told what happens, signed, in order within a repository, tried again and logged."""
