"""How much each namespace keeps, and how much it may."""
