"""When a base moves: every adapter that names it is judged against the new revision, and its owners are told."""
