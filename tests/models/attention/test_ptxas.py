"""The kernels as XLA, Triton and ptxas compile them for GPUs that are not here: their registers suffice, and nothing waits.

Whether they compute the right values, tests with the interpreter say (test_backends.py); how fast they are, no test does.
"""

from __future__ import annotations

import re
import subprocess
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxbert.models.attention.pallas import pallas_attention
from jaxbert.plan.gpu import compiler_options, cuda_folder, gpu_devices, lacks_compiler

LACKS = lacks_compiler("H100 SXM")
pytestmark = [
    pytest.mark.skipif(LACKS is not None, reason=f"no compiler for GPUs: {LACKS}"),
    pytest.mark.slow,
]


def programs(name: str, folder) -> dict[str, str]:
    """Compile forward and backward pass of BERT-base's attention with dropout; return the PTX of each kernel."""
    sharding = NamedSharding(Mesh(gpu_devices(name, 1), ("x",)), PartitionSpec())

    def shaped(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    def loss(q, k, v, segment_ids, key):
        return pallas_attention(q, k, v, segment_ids, dropout_rate=0.1, key=key).astype(jnp.float32).sum()

    heads, key = shaped((64, 512, 12, 64), jnp.bfloat16), jax.eval_shape(lambda: jax.random.key(0))
    arguments = heads, heads, heads, shaped((64, 512), jnp.int32), shaped(key.shape, key.dtype)
    users = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }  # tests/quick.py has neither
    options = {"xla_dump_to": str(folder)} | users | compiler_options()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arguments).compile(options)
    found = {}
    for file in folder.glob("*.ptx"):
        text = file.read_text()
        if name := re.search(r"\.entry packed_attention_(\w+)", text):
            found[name.group(1)] = text
    return found


@pytest.mark.parametrize(
    ("name", "architecture"), [("A100 80GB SXM", "sm_80"), ("H100 SXM", "sm_90a"), ("B200", "sm_100a")]
)
def test_no_kernel_spills_registers_or_waits_for_each_product(name, architecture, tmp_path):
    """A spilled register is moved to memory and back; a Hopper whose products (wgmma) are serialized waits for each one."""
    found = programs(name, tmp_path)
    assert set(found) == {"forward", "query", "key"}
    bad = []
    for kernel, text in found.items():
        (tmp_path / "kernel.ptx").write_text(text)
        assert f".target {architecture}" in text
        said = subprocess.run(
            [cuda_folder() / "bin/ptxas", "-v", f"-arch={architecture}", tmp_path / "kernel.ptx", "-o", "/dev/null"],
            capture_output=True,
            text=True,
            check=True,
        )
        output = said.stdout + said.stderr
        spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", output)
        assert spilled is not None, output
        if spilled.groups() != ("0", "0"):
            bad.append(f"{kernel}: {spilled.group()}")
        if "serialized" in output:
            bad.append(f"{kernel}: {next(line for line in output.splitlines() if 'serialized' in line)}")
    assert not bad, "; ".join(bad)
