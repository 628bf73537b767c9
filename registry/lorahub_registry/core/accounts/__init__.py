"""People, organisations and tokens, and what they may do."""
