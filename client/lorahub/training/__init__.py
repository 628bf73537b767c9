"""From a base and a file of examples to an adapter that says where it comes from.

config    every setting of a run, strictly
data      rows of a JSONL file: read, checked; tokens, dataset: what is learnt of them, and the split; packing, batches
methods   one way to adapt a frozen model each: what it adds, what it trains, how it is kept on disk
loop      steps, evaluations, checkpoints; loss, optimizer, signals: its parts
plan      what a run would take, before it runs
run       the whole of it, step by step; saving, provenance, history, curve: what it leaves; kept: where it is stopped

Needs torch, transformers and peft, the extra `train`; this module, `config`, `data`, `packing` and `curve` don't.
"""
