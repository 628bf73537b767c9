"""Who changed what: one row for each change, in the same transaction."""
