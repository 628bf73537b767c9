"""What adapting a model costs, from its shapes alone: parameters that are trained, bytes of a checkpoint, memory.

known      models by name, as their config.json says them
layouts    from a config.json to the shape of every parameter
model      those shapes, and which of them are linear layers, queries, values, biases
methods    how many parameters each method trains
memory     bytes, by what is counted and in which precision
paper      figures that the LoRA paper prints
selfcheck  the same figures computed, and where the two differ

Pure: no torch, no network. Sizes are bytes, in powers of ten where they are shown.
"""
