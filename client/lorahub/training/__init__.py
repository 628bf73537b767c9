"""From a base and a file of examples to an adapter that says where it comes from.

config    every setting of a run, strictly
files     rows as they are kept; shapes: what people call their parts; data: each of them checked
dataset   what is learnt of them, and the split; templates: of a chat; tokens, preview, packing, batches
methods   one way to adapt a frozen model each: what it adds, what it trains, how it is kept on disk
loop      steps, evaluations, checkpoints; loss, optimizer, signals: its parts
plan      what a run would take, before it runs
run       the whole of it, step by step; saving, provenance, history, curve: what it leaves; kept: where it is stopped

Needs torch, transformers and peft, the extra `train`; this module, `config`, `files`, `shapes`,
`data`, `packing` and `curve` don't.
"""
