"""What is there: facts and tags of a revision, the model list, the model page data."""
