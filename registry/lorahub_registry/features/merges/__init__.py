"""Merges as jobs: an adapter folded into its base by a worker, and published."""
