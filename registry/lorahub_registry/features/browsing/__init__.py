"""The catalog's pages: what features below know, put together for people."""
