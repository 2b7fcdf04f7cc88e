"""What a layer of BERT-base may cost on a GPU: kernels, and bytes a token, of the compiled step. No GPU is needed.

The difference between three and two layers is a layer, its forward and backward pass and its optimizer. A change that makes
it heavier fails; one that makes it lighter should lower the budget, in the same commit.
"""

from __future__ import annotations

import pytest
from runs import LABELS, make_config, small_config

from jaxbert.data.packing import Layout
from jaxbert.plan.compile import CompiledStep, compile_step
from jaxbert.plan.gpu import gpu_devices, lacks_compiler
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.programs import Program
from jaxbert.train.sharding import make_mesh

LACKS = lacks_compiler("H100 SXM")
ROWS, TOKENS = 64, 512
MOST_KERNELS = 39
"""Kernels of a layer: 39 with jax 0.10.2 on 2026-11-29."""
MOST_BYTES = 178_000
"""Bytes that a layer reads and writes for a token: 177,158 with jax 0.10.2 on 2026-11-29."""


def compiled(layers: int) -> CompiledStep:
    """Compile a step of layers of BERT-base for an H100: 64 rows of 512 tokens, bfloat16, dropout, layers unrolled."""
    config = make_config(model__scan_layers=None, model__dropout=None, precision__compute="bfloat16")
    bert_config = small_config(
        vocab_size=500,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        num_hidden_layers=layers,
        max_position_embeddings=TOKENS,
    )
    mesh = make_mesh(config.mesh, gpu_devices("H100 SXM", 1))
    program = Program.of(config, mesh, bert_config, Classification(LABELS), 10)
    assert program.call.recompute_activation
    return compile_step(program, Layout(TOKENS, (ROWS,), 32))


@pytest.mark.slow
@pytest.mark.skipif(LACKS is not None, reason=f"no compiler for GPUs: {LACKS}")
def test_a_layer_of_bert_base_stays_within_its_budget():
    two, three = compiled(2), compiled(3)
    kernels = three.kernel_runs - two.kernel_runs
    moved = (three.moved_bytes - two.moved_bytes) / (ROWS * TOKENS)
    budget = f"budget: {MOST_KERNELS} and {MOST_BYTES:,}"
    said = f"a layer has {kernels} kernels and moves {moved:,.0f} bytes a token ({budget})"
    assert kernels <= MOST_KERNELS, said
    assert moved <= MOST_BYTES, said
