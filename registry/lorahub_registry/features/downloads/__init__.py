"""Reading a revision: files, trees, bytes."""
