"""What the signature of a revision says, beside what the registry knows of its files."""
