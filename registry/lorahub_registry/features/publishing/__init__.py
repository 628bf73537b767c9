"""Making a revision out of uploaded bytes. service.py reads as the steps of a publication."""
