"""Who works: each worker has a name of its own and a heartbeat."""
