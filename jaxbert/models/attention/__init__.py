"""Attention within packed rows: a token attends only to the tokens of its own segment.

One module per backend: `xla` (plain matrix products, on any device), `pallas` (our kernels for NVIDIA GPUs), `mosaic` (our
kernels for TPUs), `cudnn` (the packed fused attention of cuDNN) and `splash` (JAX's kernels for TPUs). `select` chooses, and
`tiles` is what our kernels share. A backend is correct only if the gradient of one segment's output with respect to another
segment's input is exactly zero.
"""
