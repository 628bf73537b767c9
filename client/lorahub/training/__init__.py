"""From a base and a file of examples to an adapter that says where it comes from.

config     every setting of a run, strictly
data       rows of a JSONL file: read, checked, split
methods    one way to adapt a frozen model each: what it adds, what it trains, how it is kept on disk
run        the whole of it, step by step

Needs torch, transformers and peft, the extra `train`; this module, `config` and `data` don't.
"""
