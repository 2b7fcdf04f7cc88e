"""Compile the attention of one layer, forward and backward, for TPUs that are not here, and print its memory traffic.

  python scripts/bench/tpu_attention.py --document docs/performance.md

32 rows of 512 tokens, 12 heads of width 64, bfloat16. Needs libtpu (`pip install 'jaxbert[tpu]'`) and no TPU: nothing is
measured on a TPU. Bytes are those of XLA's cost analysis: each operation reads its operands and writes its results once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpu_compile import describe, write_between

ROWS, TOKENS, HEADS, WIDTH = 32, 512, 12, 64
CHIPS = ("v5e:1x1", "v6e:1x1", "v5p:1x1x1")
CASES = (("xla", 0.1), ("mosaic", 0.1), ("xla", 0.0), ("splash", 0.0), ("mosaic", 0.0))
"""Backends and dropout rates; splash has no dropout."""
BEGIN, END = "<!-- tpu-attention:begin -->", "<!-- tpu-attention:end -->"
HEAD = ("chip", "attention", "dropout", "bytes moved, MB", "memory at its peak, MB", "products, GFLOP")


def compile_attention(topology: str, name: str, rate: float) -> Any:
    """Compile from and to [B, T, H * K], as the dense layers have queries, keys, values and the result."""
    import jax
    import jax.numpy as jnp
    from jax.sharding import SingleDeviceSharding

    from jaxbert.models.attention.base import Hardware
    from jaxbert.models.attention.select import Attention
    from jaxbert.plan.topology import topology_devices

    device = topology_devices(topology)[0]
    attend, place = Attention(name, Hardware.of(device)), SingleDeviceSharding(device)

    def grads(q: Any, k: Any, v: Any, grad_out: Any, segment_ids: Any, key: Any) -> Any:
        def mix(*qkv: Any) -> Any:
            heads = [x.reshape(ROWS, TOKENS, HEADS, WIDTH) for x in qkv]
            return attend(*heads, segment_ids, dropout_rate=rate, key=key if rate else None).reshape(q.shape)

        out, pull = jax.vjp(mix, q, k, v)
        return out, pull(grad_out)

    wide = jax.ShapeDtypeStruct((ROWS, TOKENS, HEADS * WIDTH), jnp.bfloat16, sharding=place)
    segment_ids = jax.ShapeDtypeStruct((ROWS, TOKENS), jnp.int32, sharding=place)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=place)
    return jax.jit(grads).lower(wide, wide, wide, wide, segment_ids, key).compile()


def row_of(topology: str, name: str, rate: float) -> list[str]:
    """Return a line of the table."""
    from jaxbert.plan.hlo_cost import read_cost

    compiled = compile_attention(topology, name, rate)
    moved, peak = compiled.cost_analysis()["bytes accessed"], compiled.memory_analysis().peak_memory_in_bytes
    flops = read_cost(compiled.as_text()).flops
    chip = topology.partition(":")[0]
    return [chip, name, f"{rate:g}", f"{moved / 1e6:,.0f}", f"{peak / 1e6:,.0f}", f"{flops / 1e9:.1f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Compile all cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--document", type=Path, help=f"Markdown file with the lines {BEGIN} and {END}")
    values = parser.parse_args(arguments)
    lines = [HEAD, ["---"] * len(HEAD), *(row_of(chip, *case) for chip in CHIPS for case in CASES)]
    about = describe()
    facts = ["", *(f"- {name}: {about[name]}" for name in ("versions", "compiled on", "date"))]
    table = "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *facts, ""])
    print(table, end="")
    if values.document is not None:
        write_between(values.document, table, BEGIN, END)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.exit(main())
