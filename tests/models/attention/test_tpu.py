"""A training step with attention kernels compiles for TPUs, with no TPU at hand: libtpu has the compiler."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from runs import ROOT

pytestmark = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

# In a process of its own: libtpu takes hold of a machine's TPUs, and writes to standard error.
PROGRAM = """
import json
import jax
import jax.numpy as jnp
from jax.experimental import topologies
from runs import make_config
from jaxbert.models.functional import make_model
from jaxbert.models.families import sized_config
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.programs import Program
from jaxbert.train.sharding import make_mesh, row_sharding
from jaxbert.train.programs import with_dropout

devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
config = make_config(model__dropout=0.1, mesh__fsdp=2, mesh__tensor=2)
task = Classification(("bad", "good"))
model = make_model(task.head, with_dropout(sized_config("tiny", 100), config.model), jnp.bfloat16)
program = Program(config, make_mesh(config.mesh, devices), model, task, 10)
rows = row_sharding(program.mesh)
shapes = {name: ((8, 256), "int32") for name in ("input_ids", "token_type_ids", "segment_ids", "position_ids")}
shapes |= {name: ((8, 12), "int32") for name in ("cls_positions", "labels")} | {"example_mask": ((8, 12), "bool")}
batch = {name: jax.ShapeDtypeStruct(*shape, sharding=rows) for name, shape in shapes.items()}
key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype, sharding=program.state_shardings["step"])
step = program.train_step()
step.compile(program.state_target, batch, key)
(compiled,) = step._programs.values()
print(json.dumps({"kind": devices[0].device_kind, "kernels": compiled.as_text().count('"tpu_custom_call"')}))
"""


@pytest.mark.long
@pytest.mark.slow
def test_a_training_step_compiles_for_eight_tpus():
    """Forward and backward kernels are there; nothing asks the network for what kind of TPU this is."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "attention is computed by xla" not in done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["kind"] == "TPU v5 lite"
    assert result["kernels"] >= 2
