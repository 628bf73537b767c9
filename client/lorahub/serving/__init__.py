"""Many adapters on one base in memory: exchanged between two tokens, mixed within a batch, never merged.

slots    what stands in for a module's forward, and adds (x·A)·B to what it gives
effects  what other adapters make of a module's input and output: bottlenecks, biases, IA3, DoRA
fronts   what stands before the tokens: prompts and prefixes
kinds    adapters of those methods, read onto a model
targets  the modules of a model by the names that adapters use, and the factors brought to them
session  the adapters that are loaded, and which of them acts
dialog   a conversation with its cache, in which the adapter may change

Needs torch and transformers, the extra `train`.
"""
