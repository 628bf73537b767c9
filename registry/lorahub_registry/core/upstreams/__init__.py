"""Upstreams: repositories of other hubs under their own names here, their files fetched when first read."""
