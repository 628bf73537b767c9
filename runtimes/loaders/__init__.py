"""One program for each runtime; they run in its environment, where nothing else of this project is."""
