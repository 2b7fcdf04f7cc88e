"""Costs read from HLO text: loops, fusions and collectives, by hand-written programs whose sums are plain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxbert.plan.hlo import count_runs, parse_hlo
from jaxbert.plan.hlo_cost import COLLECTIVES, read_cost

LOOP = """HloModule small

%fused (a: bf16[8,4], b: bf16[4,16]) -> bf16[8,16] {
  %a = bf16[8,4]{1,0:T(8,128)(2,1)} parameter(0)
  %b = bf16[4,16]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %product = bf16[8,16]{1,0:T(8,128)(2,1)} convolution(%a, %b), dim_labels=bf_io->bf
}

%body (state: (u32[], bf16[8,4])) -> (u32[], bf16[8,4]) {
  %state = (u32[], bf16[8,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = u32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[8,4]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %one = u32[]{:T(128)} constant(1)
  %next = u32[]{:T(128)} add(%i, %one)
  %after = u32[]{:T(128)} add(%next, %one)
  %w = bf16[4,16]{1,0} constant({...})
  %y = bf16[8,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %sum = bf16[8,4]{1,0} all-reduce(%x), channel_id=3, replica_groups={{0,1}}, to_apply=%add
  ROOT %result = (u32[], bf16[8,4]{1,0}) tuple(%after, %sum)
}

%condition (state.1: (u32[], bf16[8,4])) -> pred[] {
  %state.1 = (u32[], bf16[8,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %limit = u32[]{:T(128)} constant(LIMIT)
  %i.1 = u32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %more = pred[]{:T(512)} compare(%i.1, %limit), direction=LT
}

ENTRY %main (x.1: bf16[8,4]) -> bf16[8,4] {
  %x.1 = bf16[8,4]{1,0} parameter(0)
  %start = u32[] constant(1)
  %begin = u32[] copy(%start)
  %first = (u32[], bf16[8,4]{1,0}) tuple(%begin, %x.1)
  %loop = (u32[], bf16[8,4]{1,0}) while(%first), condition=%condition, body=%body
  ROOT %out = bf16[8,4]{1,0} get-tuple-element(%loop), index=1
}
"""
PRODUCT = 2 * 8 * 4 * 16


@pytest.mark.parametrize(("limit", "rounds"), [(1, 0), (2, 1), (7, 3), (8, 4)])
def test_a_loop_counts_as_often_as_it_runs(limit, rounds):
    """The counter starts at 1 and rises by 2."""
    cost = read_cost(LOOP.replace("LIMIT", str(limit)))
    assert cost.flops == rounds * PRODUCT
    assert cost.collective_bytes["all-reduce"] == rounds * 8 * 4 * 2
    assert cost.unknown_loops == 0


def test_a_loop_that_does_not_tell_is_said_and_counts_once():
    text = LOOP.replace("constant(LIMIT)", "parameter(1)")
    assert count_runs(parse_hlo(text))[0]["fused"] == 1
    assert read_cost(text).unknown_loops == 1
    assert (
        read_cost(LOOP.replace("LIMIT", "9").replace("u32[] constant(1)\n", "u32[] parameter(1)\n")).unknown_loops == 1
    )


def test_xla_may_note_the_rounds():
    noted = LOOP.replace("body=%body", 'body=%body, backend_config={"known_trip_count":{"n":"5"}}')
    assert read_cost(noted.replace("LIMIT", "9")).flops == 5 * PRODUCT


ENTRY = "ENTRY %main (x: bf16[8,64]) -> bf16[8,64] {{\n  %x = bf16[8,64]{{1,0}} parameter(0)\n{}\n}}\n"


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("%g = bf16[64,64]{1,0} all-gather(%x), channel_id=1, dimensions={0}", "all-gather", 8192),
        ("%g = (bf16[8,64]{1,0}, bf16[64,64]{1,0}) all-gather-start(%x), channel_id=1", "all-gather", 8192),
        (
            "%g = ((bf16[8,64]{1,0}, f32[4]{0}), (bf16[64,64]{1,0}, f32[32]{0})) all-gather-start(%x, %y), channel_id=1",
            "all-gather",
            8192 + 128,
        ),
        ("%g = (f32[8]{0}, /*index=1*/pred[16]{0}) all-reduce(%x, %y), channel_id=1", "all-reduce", 48),
        ("%g = bf16[1,64]{1,0} reduce-scatter(%x), channel_id=1, dimensions={0}", "reduce-scatter", 128),
        ("%g = (f32[64,64]{1,0}, f32[8,64]{1,0}) reduce-scatter-start(%x), channel_id=1", "reduce-scatter", 2048),
        (
            "%g = ((bf16[64,8]{1,0}, f32[32]{0}), (bf16[8,8]{1,0}, f32[4]{0})) reduce-scatter-start(%x, %y), channel_id=1",
            "reduce-scatter",
            144,
        ),
        ("%g = (bf16[8]{0}, bf16[8]{0:S(1)}, u32[]{:S(2)}) collective-permute-start(%x)", "collective-permute", 16),
        ("%g = bf16[64,64]{1,0} all-gather-done(%x)", "all-gather", 0),
    ],
)
def test_collectives_count_by_their_results(line, kind, size):
    assert read_cost(ENTRY.format("  " + line)).collective_bytes == dict.fromkeys(COLLECTIVES, 0) | {kind: size}


def test_the_pieces_of_one_collective_count_once():
    piece = "  %g{} = bf16[64,64]{{1,0}} all-gather(%x), channel_id={}, dimensions={{0}}"
    lines = "\n".join(piece.format(i, channel) for i, channel in enumerate((1, 1, 1, 2)))
    assert read_cost(ENTRY.format(lines)).collective_bytes["all-gather"] == 2 * 8192


@pytest.mark.parametrize(
    ("groups", "size"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4),
        ("[2,4]<=[8]", 4),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_0'}", 8),
        ("mesh['axis_0'=8,'axis_1'=4,'axis_2'=1] {'axis_0','axis_1'}", 32),
        ("mesh['axis_0'=8,'axis_1'=4] {'axis_0':(2)4,'axis_1'}", 16),
        ("mesh['axis_0'=1,'axis_1'=16,'axis_2'=128], device_ids=([128,16]T(1,0)) {'axis_1'}", 16),
        ("{}", 0),
    ],
)
def test_a_collective_tells_how_many_take_part(groups, size):
    line = f"  %g = f32[100]{{0}} all-reduce(%x), channel_id=1, replica_groups={groups}, to_apply=%add"
    (found,) = read_cost(ENTRY.format(line)).traffic
    assert (found.group, found.runs, found.result_bytes) == (size, 1, 400)


@pytest.mark.parametrize(
    ("kind", "sent"),
    [
        ("all-gather", 300),
        ("all-reduce", 600),
        ("reduce-scatter", 1200),
        ("all-to-all", 300),
        ("collective-permute", 400),
    ],
)
def test_what_a_device_sends_follows_from_the_kind(kind, sent):
    """Among four devices, for a result of 400 bytes: each byte once around the ring, twice for a sum that all get."""
    line = f"  %g = f32[100]{{0}} {kind}(%x), channel_id=1, replica_groups=[2,4]<=[8]"
    (found,) = read_cost(ENTRY.format(line)).traffic
    assert found.sent_bytes == sent


def test_a_collective_of_one_device_moves_nothing():
    line = "  %g = f32[100]{0} all-reduce(%x), channel_id=1, replica_groups=[8,1]<=[8]"
    cost = read_cost(ENTRY.format(line))
    assert cost.traffic == ()
    assert cost.collective_bytes["all-reduce"] == 0


KERNEL = (
    '  %k = bf16[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{'
)


def test_a_kernel_tells_its_flops_or_is_known_or_is_counted_as_silent():
    told = read_cost(ENTRY.format(KERNEL + '"cost_estimate":{"flops":"1000","transcendentals":"1"}}}'))
    assert (told.flops, told.silent_kernels) == (1000, 0)
    silent = read_cost(ENTRY.format(KERNEL + '"body":"..."}}'))
    assert (silent.flops, silent.silent_kernels) == (0, 1)
    queries = "  %q = bf16[2,512,64]{2,1,0} bitcast(%x)\n"
    splash = queries + KERNEL.replace("%k =", "%splash_mha_fwd_residuals.3 =").replace("(%x)", "(%q, %x)")
    known = read_cost(ENTRY.format(splash + '"body":"..."}}'))
    assert (known.flops, known.silent_kernels) == (4 * 2 * 512 * 512 * 64, 0)


@pytest.mark.parametrize(
    ("shapes", "attributes", "flops"),
    [
        # Attention's logits on TPU, 8 rows and 2 heads: as written, two of the spatial axes are batch axes.
        (
            ("bf16[8,512,2,64]", "bf16[8,512,2,64]", "f32[8,2,512,512]"),
            "window={size=8x2 stride=7x1 lhs_dilate=8x2}, dim_labels=0b1f_0o1i->01bf",
            2 * 8 * 2 * 512 * 512 * 64,
        ),
        # A product with rows as a spatial axis, and a window that slides from end to end of a single position.
        (
            ("bf16[16,512,1]", "bf16[8,64,16]", "bf16[8,512,64]"),
            "window={size=8 pad=7_7 rhs_reversal=1}, dim_labels=fb0_0oi->0bf",
            2 * 8 * 512 * 64 * 16,
        ),
        # The gradient of a kernel: the rows are summed over as a window.
        (
            ("bf16[8,512,128]", "bf16[8,512,64]", "bf16[128,64,1]"),
            "window={size=8}, dim_labels=0fb_0io->bf0",
            2 * 8 * 512 * 128 * 64,
        ),
        # A plain 3x3 convolution whose border meets padding.
        (
            ("f32[1,4,4,2]", "f32[3,3,2,5]", "f32[1,4,4,5]"),
            "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
            2 * 10 * 10 * 2 * 5,
        ),
    ],
)
def test_convolutions_count_what_meets(shapes, attributes, flops):
    left, right, out = shapes
    text = (
        f"ENTRY %main (l: {left}) -> {out} {{\n  %l = {left} parameter(0)\n  %r = {right} parameter(1)\n"
        f"  ROOT %c = {out} convolution(%l, %r), {attributes}\n}}\n"
    )
    assert read_cost(text).flops == flops


def test_a_scan_costs_what_its_unrolled_form_costs():
    """On this machine's own compiler, against its cost analysis of the unrolled form."""
    w_NDD = jnp.ones((6, 32, 32))

    def compiled(unroll: int) -> jax.stages.Compiled:
        def run(x, w_NDD):
            return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w_NDD, unroll=unroll)[0].sum()

        return jax.jit(jax.grad(run)).lower(jnp.ones((16, 32)), w_NDD).compile()

    scanned, unrolled = (read_cost(compiled(unroll).as_text() or "") for unroll in (1, 6))
    assert scanned.flops == unrolled.flops == 2 * 6 * 2 * 16 * 32 * 32
    counted = compiled(1).cost_analysis()
    assert counted is not None
    assert counted["flops"] < scanned.flops / 3


def flops_of_call(target: str, shapes: tuple[str, ...], result: str, config: str) -> tuple[float, int]:
    """Return FLOPs and silent kernels of a program with one custom call."""
    operands = [f"  %p{i} = {shape} parameter({i})\n" for i, shape in enumerate(shapes)]
    names = ", ".join(f"%p{i}" for i in range(len(shapes)))
    cost = read_cost(
        f"ENTRY %main (p0: {shapes[0]}) -> {result} {{\n{''.join(operands)}"
        f'  ROOT %k = {result} custom-call({names}), custom_call_target="{target}", backend_config={config}\n}}\n'
    )
    return cost.flops, cost.silent_kernels


@pytest.mark.parametrize(
    ("kernel", "products"),
    [
        ("packed_attention_forward", 2),
        ("packed_attention_query", 3),
        ("packed_attention_key", 4),
        ("residual_norm_backward", 0),
        ("something_new", None),
    ],
)
def test_kernels_of_triton_are_known_by_their_names(kernel, products):
    """Products of T x T x K for whole rows: 4 rows of 128 tokens, 2 heads of 64."""
    shapes = ("s32[4]{0}", "bf16[4,128,2,64]{3,2,1,0}", "bf16[4,128,2,64]{3,2,1,0}")
    config = f'{{grid_x = 2 : i32, ir = "..name = x", name = "{kernel}", num_stages = 2 : i32}}'
    found = flops_of_call("__gpu$xla.gpu.triton", shapes, "bf16[4,128,2,64]{3,2,1,0}", config)
    assert found == ((0, 1) if products is None else (products * 2 * 4 * 2 * 128 * 128 * 64, 0))


@pytest.mark.parametrize("target", ["__cublas$lt$matmul", "__cublas$lt$matmul$f8", "__cublas$gemm"])
def test_products_of_cublas(target):
    """Three products of [8, 16] and [16, 32]; the scratch memory beside the result does not matter."""
    numbers = '{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"]}'
    shapes = ("f8e4m3fn[3,8,16]{2,1,0}", "f8e4m3fn[3,16,32]{2,1,0}", "f32[]", "f32[]")
    config = f'{{"gemm_backend_config":{{"alpha_real":1,"dot_dimension_numbers":{numbers}}}}}'
    assert flops_of_call(target, shapes, "(bf16[3,8,32]{2,1,0}, s8[4194304]{0})", config) == (2 * 3 * 8 * 16 * 32, 0)


@pytest.mark.parametrize(
    ("target", "products"),
    [("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxDropout", 2), ("__cudnn$fmhaSoftmaxBackward", 5)],
)
def test_attention_of_cudnn(target, products):
    """4 rows of 128 tokens, 2 heads of 64, by the shape of the weights."""
    weights = '{"element_type": "BF16", "dimensions": ["4", "2", "128", "128"], "tuple_shapes": []}'
    config = f'{{"cudnn_fmha_backend_config": {{"fmha_scale": 0.1, "intermediate_tensor_shape": {weights}}}}}'
    shapes = ("bf16[4,128,2,64]{3,2,1,0}",) * 3
    result = "(bf16[4,128,2,64]{3,2,1,0}, u8[0]{0})"
    assert flops_of_call(target, shapes, result, config) == (products * 2 * 4 * 2 * 128 * 128 * 64, 0)
    assert flops_of_call(target, shapes, result, "{}") == (0, 1)


@pytest.mark.parametrize(
    ("target", "silent"),
    [
        *(("TopK", 0), ("AssumeGatherIndicesInBound", 0), ("cu_threefry2x32_ffi", 0), ("__cub$DeviceRadixSort", 0)),
        *(("__cudnn$convForward", 1), ("__onednn$matmul", 1), ("their_own_product", 1)),
    ],
)
def test_a_call_of_something_unknown_is_silent(target, silent):
    assert flops_of_call(target, ("bf16[8,64]{1,0}",) * 2, "bf16[8,64]{1,0}", "{}") == (0, silent)
