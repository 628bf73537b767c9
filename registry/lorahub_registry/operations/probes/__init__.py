"""What a machine that looks after the registry asks: is it alive, is it ready, how much of everything is there."""
