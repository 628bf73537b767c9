"""Bytes with a known digest: from received to verified to kept, and who may refer to them."""
