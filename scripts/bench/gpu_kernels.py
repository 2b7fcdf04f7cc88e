"""Check jaxbert's attention kernels on the GPU that is here: values, gradients, leaks, dropout, and packed = padded.

  python scripts/bench/gpu_kernels.py --output kernels.json          about a minute
  python scripts/bench/gpu_kernels.py --output kernels.json --toy    small, with Pallas' interpreter, on any machine

The reference is plain matrix products (`xla`) in float32 with the same inputs. A difference is in relation to the largest
entry of the reference. In bfloat16 it must stay within three times that of plain products in bfloat16; between examples it
must be exactly 0. The file is written after each check; the exit code is 1 if a check failed or a GPU ran no kernel.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))  # jaxbert may not be installed

import jax
import jax.numpy as jnp
import numpy as np
from gpu_report import describe

from jaxbert.data.batches import Batch, batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout, padded_layout
from jaxbert.data.tokens import Tokens
from jaxbert.models.attention.base import Attend, Hardware, Request
from jaxbert.models.attention.select import Attention
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.families import sized_config
from jaxbert.models.functional import init_params, make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.train.runtime import prepare_process
from jaxbert.versions import installed

_EXACT = 2e-5
"""The largest difference of sums of float32 in another order."""
_EXACT_MODEL = 2e-4
"""The same after all layers of a model."""
_WORST = 0.02
"""The largest difference in bfloat16, whatever that of plain products is."""
_WORST_MODEL = 0.1
_RATE = 0.3
Result = dict[str, Any]
Check = tuple[str, Callable[[], Result]]


@dataclass(frozen=True)
class Sizes:
    """The sizes of the checks; `ragged` is a row that is no multiple of a tile."""

    rows: int = 3
    length: int = 512
    ragged: int = 200
    heads: int = 4
    width: int = 64
    model: str = "mini"
    examples: int = 64
    longest: int = 120


TOY = Sizes(length=128, ragged=72, heads=2, width=16, model="tiny", examples=6, longest=24)


def packed_segments(rows: int, length: int) -> np.ndarray:
    """Draw packed rows, int32 [B, T]: the first is full, the others end in padding."""
    rng = np.random.default_rng(0)
    segments = np.zeros((rows, length), np.int32)
    for row in range(rows):
        ends = np.cumsum(rng.integers(1, max(2, length // 4), length))
        filled = length if row == 0 else int(ends[ends < length - 2][-1])
        segments[row, :filled] = np.searchsorted(ends, np.arange(filled), side="right") + 1
    return segments


@partial(jax.jit, static_argnums=(0, 1))
def value_and_grads(attend: Attend, rate: float, qkv: list, weight: Any, segments: Any) -> list:
    """Return the output, and the gradients of its weighted sum with respect to queries, keys and values."""
    key = jax.random.key(4) if rate else None
    slots = 64  # more than any row of these checks has
    out, pull = jax.vjp(
        lambda *x: attend(*x, segments, dropout_rate=rate, key=key, slots=slots).reshape(qkv[0].shape), *qkv
    )
    return [out, *pull(weight.astype(out.dtype))]


def _precision(dtype: Any) -> contextlib.AbstractContextManager[Any]:
    """Compute float32 products as a run in float32 does: in float32 and not in TF32."""
    return jax.default_matmul_precision("float32") if dtype == jnp.float32 else contextlib.nullcontext()


def _difference(found: Any, expected: Any, where: Any = ...) -> float:
    found, expected = (np.asarray(x, np.float32) for x in (found, expected))
    worst = np.abs(found - expected)[where].max() / np.abs(expected).max()
    return float(worst) if np.isfinite(found).all() else float("inf")


class Kernel:
    """The checks of one backend with rows of one length in one format."""

    def __init__(self, attend: Attend, sizes: Sizes, length: int, dtype: Any) -> None:
        self.attend = attend
        self.plain = Attention("xla")
        rng = np.random.default_rng(1)
        shape = (sizes.rows, length, sizes.heads, sizes.width)
        self.segments = packed_segments(sizes.rows, length)
        self.real = self.segments > 0
        *self.qkv, weight = (jnp.asarray(rng.normal(size=shape), dtype) for _ in range(4))
        self.weight = jnp.where(self.real[:, :, None, None], weight, 0)
        self.noise = [jnp.asarray(100 * rng.normal(size=shape), dtype) for _ in range(3)]

    def _run(self, attend: Attend, rate: float = 0.0, qkv: list | None = None, weight: Any = None) -> list:
        qkv, weight = self.qkv if qkv is None else qkv, self.weight if weight is None else weight
        with _precision(qkv[0].dtype):
            return value_and_grads(attend, rate, qkv, weight, self.segments)

    def values(self, rate: float) -> Result:
        """Compare output and gradients at real tokens; with a rate, the same weights are dropped."""
        exact = self._run(self.plain, rate, [x.astype(jnp.float32) for x in self.qkv], self.weight.astype(jnp.float32))
        found, plain = self._run(self.attend, rate), self._run(self.plain, rate)
        differences, usual = (
            [_difference(one, other, self.real) for one, other in zip(result, exact, strict=True)]
            for result in (found, plain)
        )
        limits = [_limit(self.qkv[0].dtype, one, _EXACT, _WORST) for one in usual]
        return _verdict(dict(zip(("output", "dq", "dk", "dv"), differences, strict=True)), limits)

    def leaks(self) -> Result:
        """Differentiate the output of one segment with respect to all other tokens."""
        largest = {"dq": 0.0, "dk": 0.0, "dv": 0.0}
        for segment in (0, 1, 2):  # padding is 0
            mine = np.zeros_like(self.real)
            mine[1] = self.segments[1] == segment
            weight = jnp.where(mine[:, :, None, None], self.noise[0], 0)
            _, *grads = self._run(self.attend, weight=weight)
            for name, grad in zip(largest, grads, strict=True):
                outside = np.abs(np.asarray(grad, np.float32)[~mine])
                largest[name] = max(largest[name], float(outside.max()))
        return _verdict(largest, [0.0] * 3)

    def strangers(self) -> Result:
        """Replace all other segments, and compare a segment's output bit by bit."""
        mine = (self.segments == 2)[:, :, None, None]
        other = [jnp.where(mine, x, noise) for x, noise in zip(self.qkv, self.noise, strict=True)]
        before, after = (self._run(self.attend, qkv=qkv)[0] for qkv in (self.qkv, other))
        return _verdict({"output": _difference(after, before, self.segments == 2)}, [0.0])


def _limit(dtype: Any, usual: float, exact: float, worst: float) -> float:
    return exact if dtype == jnp.float32 else min(max(3 * usual, exact), worst)


def _verdict(found: dict[str, float], limits: Sequence[float]) -> Result:
    ok = all(value <= limit for value, limit in zip(found.values(), limits, strict=True))  # NaN fails
    return {"ok": ok, "found": found, "limits": list(limits)}


class PackedModel:
    """The check that packed rows give the logits and gradients of padded rows, in a small model."""

    def __init__(self, sizes: Sizes) -> None:
        rng = np.random.default_rng(2)
        count, longest = sizes.examples, sizes.longest
        lengths = rng.integers(4, longest + 1, count).astype(np.int32)
        self.config = sized_config(sizes.model, 1000, initializer_range=0.1)  # so that attention matters
        tokens = Tokens.from_lengths(rng.integers(5, 1000, lengths.sum(), dtype=np.int32), lengths, lengths)
        examples = Examples(tokens, rng.integers(0, 2, count, dtype=np.int32))
        packed = choose_layout(lengths, count, row_length=sizes.length)
        (self.packed,) = batches(examples, packed, count, seed=None)
        (self.padded,) = batches(examples, padded_layout(lengths, count, None, 1), count, seed=None)
        self.count = count
        self._exact: list[np.ndarray] | None = None
        self._plain: dict[str, list[np.ndarray]] = {}

    def run(self, attend: Attend, dtype: Any, batch: Batch) -> list[np.ndarray]:
        """Return the logits by example, and all gradients of the loss as one vector."""
        model = make_model(SequenceClassificationHead, self.config, dtype)
        call = ForwardOptions(attention=attend)
        arrays = {name: value for name, value in batch.items() if name != "example_ids"}

        def loss(params: Any, batch: dict[str, Any]) -> tuple[Any, Any]:
            logits = model.apply(params, batch, None, call)["logits"].astype(jnp.float32)
            each = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch["labels"][..., None], -1)[..., 0]
            return jnp.where(batch["example_mask"], each, 0).sum() / self.count, logits

        params = init_params(model, jax.random.key(0))
        with _precision(dtype):
            (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, arrays)
        mask = batch["example_mask"]
        by_example = np.empty((self.count, logits.shape[-1]), np.float32)
        by_example[batch["example_ids"][mask]] = np.asarray(logits)[mask]
        return [by_example, np.concatenate([np.asarray(g).ravel() for g in jax.tree.leaves(grads)])]

    def check(self, attend: Attend, dtype: Any) -> Result:
        """Compare packed rows of a backend with padded rows of plain products."""
        plain = Attention("xla")
        name = jnp.dtype(dtype).name
        if self._exact is None:
            self._exact = self.run(plain, jnp.float32, self.padded)
        if name not in self._plain:
            self._plain[name] = self._exact if name == "float32" else self.run(plain, dtype, self.padded)
        found, exact, usual = self.run(attend, dtype, self.packed), self._exact, self._plain[name]
        found_logits, usual_logits = (_difference(x[0], exact[0]) for x in (found, usual))
        size = np.linalg.norm(exact[1])
        found_grads, usual_grads = (float(np.linalg.norm(x[1] - exact[1]) / size) for x in (found, usual))
        limits = [_limit(dtype, x, _EXACT_MODEL, _WORST_MODEL) for x in (usual_logits, usual_grads)]
        return _verdict({"logits": found_logits, "gradients": found_grads}, limits)


def checks(sizes: Sizes, hardware: Hardware, interpret: bool) -> Iterator[Check]:
    """Yield all checks; those of float32, whose kernels compile slowly, come last."""
    model = PackedModel(sizes)
    for name, dtype in (("pallas", jnp.bfloat16), ("cudnn", jnp.bfloat16), ("pallas", jnp.float32)):
        attend = Attention(name, hardware, interpret=interpret and name == "pallas")
        title = f"{name} {jnp.dtype(dtype).name}"
        reason = attend.choose(Request(jnp.dtype(dtype).name, sizes.length, sizes.width, 0.0))[1]
        if reason is not None:
            yield title, partial(dict, ok=interpret, refused=reason)
            continue
        kernel = Kernel(attend, sizes, sizes.length, dtype)
        yield f"{title}, values and gradients", partial(kernel.values, 0.0)
        yield f"{title}, leaks", kernel.leaks
        yield f"{title}, other segments changed", kernel.strangers
        if name == "pallas":
            yield f"{title}, dropout", partial(kernel.values, _RATE)
        if dtype != jnp.float32:
            ragged = Kernel(attend, sizes, sizes.ragged, dtype)
            yield f"{title}, rows of {sizes.ragged}", partial(ragged.values, 0.0)
        yield f"{title}, packed = padded", partial(model.check, attend, dtype)
    yield "xla float32, packed = padded", partial(model.check, Attention("xla"), jnp.float32)


def run(sizes: Sizes, interpret: bool, write: Callable[[Result], None]) -> Result:
    """Run all checks; an exception is a failed check."""
    device = jax.devices()[0]
    result: Result = {
        "device": device.device_kind,
        "platform": device.platform,
        "versions": installed(("jax", "jaxlib", "flax")),
        "checks": {},
    }
    for title, check in checks(sizes, Hardware.of(device), interpret):
        begin = time.perf_counter()
        try:
            found = check()
        except Exception as error:  # a failed check must not stop the others
            found = {"ok": False, "error": f"{type(error).__name__}: {error}"[:500]}
        result["checks"][title] = {**found, "seconds": round(time.perf_counter() - begin, 2)}
        print(f"{title}: {describe(found)}", file=sys.stderr, flush=True)
        write(result)
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=Path, required=True, help="file for the JSON")
    parser.add_argument("--toy", action="store_true", help="small sizes, with Pallas' interpreter")
    values = parser.parse_args(arguments)

    def write(result: Result) -> None:
        values.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")

    prepare_process()  # keeps compiled programs on disk, so that a second call is short
    result = run(TOY if values.toy else Sizes(), values.toy, write)
    return int(not all(check["ok"] for check in result["checks"].values()))


if __name__ == "__main__":
    sys.exit(main())
