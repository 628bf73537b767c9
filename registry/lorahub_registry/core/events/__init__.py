"""What happened: one row for each thing, in the transaction of the change, numbered when it is committed."""
