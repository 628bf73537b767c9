"""How alike the updates of two adapters are: asked for by somebody, computed by a worker, kept by their bytes."""
