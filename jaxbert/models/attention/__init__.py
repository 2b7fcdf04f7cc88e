"""Attention within packed rows: a token attends only to the tokens of its own segment.

One module per backend: `xla` (plain matrix products, on any device), `pallas` (our kernel for NVIDIA GPUs), `cudnn` (the
packed fused attention of cuDNN) and `splash` (TPU). `select` chooses among them. A backend is correct only if the gradient
of one segment's output with respect to another segment's input is exactly zero.
"""
