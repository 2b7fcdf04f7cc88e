"""The kernels of a layer as XLA, Triton and ptxas compile them for GPUs that are not here: enough registers, no waits.

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

from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.pallas import pallas_fused_attention
from jaxbert.models.residual import NormParams, ResidualNorm
from jaxbert.plan.gpu import compiler_options, cuda_folder, gpu_devices, lacks_compiler

LACKS = lacks_compiler("H100 SXM")
pytestmark = [
    pytest.mark.skipif(LACKS is not None, reason=f"no compiler for GPUs: {LACKS}"),
    pytest.mark.slow,
]


def programs(name: str, folder, dtype: str) -> dict[str, str]:
    """Compile forward and backward pass of half a layer of BERT-base with dropout; return the PTX of each kernel."""
    sharding = NamedSharding(Mesh(gpu_devices(name, 1), ("x",)), PartitionSpec())

    def shaped(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    norm = ResidualNorm(Hardware("gpu", (9, 0)))

    def loss(kvq, bias, hidden, params, segment_ids, key):
        mixed = pallas_fused_attention(kvq, bias, segment_ids, dropout_rate=0.1, key=key).reshape(hidden.shape)
        pair = norm(mixed, hidden, params, epsilon=1e-12, rate=0.1, key=key)
        return sum(part.astype(jnp.float32).sum() for part in pair)

    key = jax.eval_shape(lambda: jax.random.key(0))
    arguments = (
        shaped((64, 512, 3, 12, 64), dtype),
        shaped((3, 12, 64), jnp.float32),
        shaped((64, 512, 768), dtype),
        NormParams(*[shaped((768,), jnp.float32)] * 3),
        shaped((64, 512), jnp.int32),
        shaped(key.shape, key.dtype),
    )
    # tests/quick.py has neither of the first two
    users = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
    options = {"xla_dump_to": str(folder)} | users | compiler_options()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Pallas Triton backend is deprecated", DeprecationWarning)
        jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(*arguments).compile(options)
    found = {}
    for file in folder.glob("*.ptx"):
        text = file.read_text()
        if name := re.search(r"\.entry ((?:packed_attention|residual_norm)_\w+)", text):
            found[name.group(1)] = text
    return found


@pytest.mark.parametrize(
    ("name", "architecture", "dtype"),
    [
        ("A100 80GB SXM", "sm_80", "bfloat16"),
        ("A100 80GB SXM", "sm_80", "float32"),
        ("H100 SXM", "sm_90a", "bfloat16"),
        ("B200", "sm_100a", "bfloat16"),
    ],
)
def test_no_kernel_spills_registers_or_waits_for_each_product(name, architecture, dtype, tmp_path):
    """A spilled register is moved to memory and back; a Hopper whose products (wgmma) are serialized waits for each one."""
    found = programs(name, tmp_path, dtype)
    attention = {f"packed_attention_{kernel}" for kernel in ("forward", "query", "key")}
    assert set(found) == attention | {f"residual_norm_{way}" for way in ("forward", "backward")}
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
