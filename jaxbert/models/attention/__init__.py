"""Attention within packed rows: a token sees the tokens of its own segment and no others.

One module a backend: `xla` (plain matrix products, everywhere), `pallas` (our kernel for NVIDIA GPUs), `cudnn` (the packed
fused attention of cuDNN) and `splash` (TPU). `select` chooses among them. A backend is right only if the gradient of one
segment's output with respect to another segment's input is exactly zero.
"""
