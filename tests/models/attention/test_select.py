"""The backend is the one that was asked for or the best for the hardware; else one line says why it is not."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import pytest
from attention_cases import packed_segments, random_arrays
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.models.attention import mosaic, pallas, select, splash
from jaxbert.models.attention.base import Hardware, Request
from jaxbert.models.attention.select import Attention, visited_tile
from jaxbert.models.attention.xla import xla_attention
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead

CPU, TPU = Hardware("cpu"), Hardware("tpu")
HOPPER, AMPERE, TURING, AMD = (Hardware("gpu", c) for c in ((9, 0), (8, 0), (7, 5), None))


@pytest.fixture(autouse=True)
def _cudnn_is_there(monkeypatch):
    monkeypatch.setattr("jax._src.cudnn.fused_attention_stablehlo.check_cudnn_version", lambda: 91000)


def request(dtype="bfloat16", row_length=512, head_width=64, dropout_rate=0.0):
    return Request(dtype, row_length, head_width, dropout_rate)


CHOICES = [
    ("auto", CPU, request(), "xla", None),
    ("auto", TPU, request(), "mosaic", None),
    ("auto", TPU, request("float32", row_length=72, dropout_rate=0.1), "mosaic", None),
    ("auto", TPU, request("float16"), "xla", "computes in bfloat16 and float32, and precision.compute is float16"),
    ("auto", TPU, request(row_length=2944), "mosaic", None),
    ("auto", TPU, request(row_length=2952), "xla", "rows in bfloat16 are at most 2944 tokens, and these are 2952"),
    ("auto", TPU, request("float32", row_length=2048), "xla", "rows in float32 are at most 1536 tokens"),
    ("auto", TPU, request(row_length=2048, head_width=160), "xla", "rows in bfloat16 are at most 1408 tokens"),
    ("auto", HOPPER, request(dropout_rate=0.1), "pallas", None),
    ("auto", AMPERE, request("float32"), "pallas", None),
    ("auto", AMPERE, request("float64"), "xla", "float64"),
    ("auto", HOPPER, request(row_length=72), "xla", None),
    ("auto", HOPPER, request(head_width=192), "xla", "at most 128 wide"),
    ("auto", HOPPER, request("float32", head_width=128), "xla", "at most 64 wide"),
    ("auto", TURING, request(), "xla", None),
    ("auto", AMD, request(), "xla", None),
    ("xla", HOPPER, request(), "xla", None),
    ("pallas", HOPPER, request(row_length=72), "pallas", None),
    ("pallas", CPU, request(), "xla", "the devices are CPUs"),
    ("pallas", TPU, request(), "xla", "the devices are TPUs"),
    ("pallas", TURING, request(), "xla", "the devices have 7.5"),
    ("cudnn", HOPPER, request(), "cudnn", None),
    ("cudnn", CPU, request(), "xla", "the devices are CPUs"),
    ("cudnn", AMPERE, request(), "xla", "the devices have 8.0"),
    ("cudnn", AMD, request(), "xla", "the devices are no NVIDIA GPUs"),
    ("cudnn", HOPPER, request(dropout_rate=0.1), "xla", "the same attention weights at every step"),
    ("cudnn", HOPPER, request("float32"), "xla", "computes in 16 bits"),
    ("cudnn", HOPPER, request(head_width=20), "xla", "multiple of 8"),
    ("mosaic", HOPPER, request(), "xla", "needs a TPU"),
    ("splash", TPU, request(), "splash", None),
    ("splash", TPU, request(dropout_rate=0.1), "xla", "model.attention_dropout to 0"),
    ("splash", TPU, request(row_length=200), "xla", "multiple of 128"),
    ("splash", HOPPER, request(), "xla", "needs a TPU"),
]


@pytest.mark.parametrize(("name", "hardware", "wanted", "expected", "line"), CHOICES)
def test_choices(name, hardware, wanted, expected, line):
    found, reason = Attention(name, hardware).choose(wanted)
    assert found == expected
    assert (reason is None) == (line is None)
    if line is not None:
        backend = {CPU: name, TPU: "mosaic"}.get(hardware, "pallas") if name == "auto" else name
        assert reason.startswith(f"attention is computed by xla and not by {backend}: ")
        assert line in reason
        assert "\n" not in reason


def test_a_jax_without_the_parts_falls_back(monkeypatch):
    import jax._src.cudnn.fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "dot_product_attention", lambda query, key, value: query)
    assert "another form" in Attention("cudnn", HOPPER).choose(request())[1]
    monkeypatch.delattr(fused, "dot_product_attention")
    assert "does not have it" in Attention("cudnn", HOPPER).choose(request())[1]
    monkeypatch.setattr(fused, "check_cudnn_version", lambda: (_ for _ in ()).throw(RuntimeError("not detected")))
    monkeypatch.setattr(pallas, "triton_options", lambda *_: None)
    assert "no Pallas" in Attention("pallas", HOPPER).choose(request())[1]
    for backend in (mosaic, splash):
        monkeypatch.setattr(backend, "_PACKAGE", "jax.no_such_package")
    assert "no Pallas" in Attention("mosaic", TPU).choose(request())[1]
    assert "does not have it" in Attention("splash", TPU).choose(request())[1]


def test_hardware_of_devices():
    class Device:
        platform = "gpu"
        compute_capability = "12.1"

    assert Hardware.of(Device()) == Hardware("gpu", (12, 1))
    Device.compute_capability = "gfx942"
    assert Hardware.of(Device()) == AMD
    assert Hardware.of(jax.devices()[0]) == CPU


@pytest.mark.parametrize("name", ["cudnn", "pallas", "mosaic", "splash"])
def test_the_fallback_is_xla_and_says_so_once(name, caplog):
    """One line for a whole model: all layers, scanned and not, with the gradient, and two shapes of batch."""
    attention = Attention(name, CPU)
    model = make_model(SequenceClassificationHead, small_config())
    params = random_params(model)
    tokens = random_tokens(12)
    with caplog.at_level(logging.INFO, logger="jaxbert"):
        for length, scan in ((30, True), (40, False)):
            (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 12, row_length=length), 12, seed=None)

            def program(attend, batch=batch, scan=scan):
                def loss(params, key):
                    return model.apply(params, batch, key, ForwardOptions(scan, attention=attend))["logits"].sum()

                return jax.jit(jax.grad(loss)).lower(params, jax.random.key(0)).as_text()

            assert program(attention) == program(xla_attention)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.text.count(f"not by {name}: ") == 1


def test_what_is_honoured_is_not_talked_about(caplog):
    q, k, v = random_arrays((2, 16, 2, 8), 3)
    with caplog.at_level(logging.INFO, logger="jaxbert"):
        for name in ("auto", "xla"):
            Attention(name, CPU)(q, k, v, jnp.asarray(packed_segments(2, 16)))
    assert not caplog.records


def test_weights_and_head_masks_are_plain(monkeypatch):
    """They are xla's alone, whatever backend is set; without them, the backend is called."""

    def never(*_, **__):
        raise AssertionError("the backend was called")

    for name in ("__call__", "attend_fused"):
        monkeypatch.setattr(select.Attention, name, never)
    model = make_model(SequenceClassificationHead, small_config())
    params, tokens = random_params(model), random_tokens(4)
    (batch,) = batches(Examples(tokens), choose_layout(tokens.lengths, 4, row_length=30), 4, seed=None)
    call = ForwardOptions(attention=Attention("pallas", HOPPER), output_attentions=True)
    assert jax.eval_shape(lambda: model.apply(params, batch, None, call))["encoded"].attentions_NBHTT is not None
    call = ForwardOptions(attention=Attention("pallas", HOPPER))
    jax.eval_shape(lambda: model.apply(params, batch, None, call, jnp.ones((2, 2))))
    with pytest.raises(AssertionError, match="the backend was called"):
        jax.eval_shape(lambda: model.apply(params, batch, None, call))


def test_what_is_skipped():
    assert visited_tile(xla_attention, request()) is None
    assert visited_tile(Attention("splash", TPU), request()) is None
    assert visited_tile(Attention("auto", TPU), request(row_length=72)) == mosaic.TILE
    assert visited_tile(Attention("auto", HOPPER), request()) == 64
    assert visited_tile(Attention("auto", HOPPER), request("float32")) == 32
    assert visited_tile(Attention("auto", HOPPER), request(row_length=72)) is None
    assert visited_tile(Attention("cudnn", HOPPER), request()) == 1
