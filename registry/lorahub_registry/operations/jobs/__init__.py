"""What workers have in hand: taking over from dead ones, the operator's view."""
