"""Kernels of compiled programs and the bytes that they move: hand-written programs, whose sums are plain, and real ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from quick import newest

from jaxbert.plan.hlo_kernels import KernelCost, join_alike, moved_bytes, read_kernels


def entry(lines: str, others: str = "") -> str:
    """Return a program with these computations, the last of which has a row of bfloat16, a table and an index."""
    return (
        f"HloModule hand\n\n{others}\nENTRY %main (x: bf16[8,64], t: bf16[12,8,64], i: s32[]) -> bf16[8,64] {{\n"
        "  %x = bf16[8,64]{1,0} parameter(0)\n  %t = bf16[12,8,64]{2,1,0} parameter(1)\n  %i = s32[] parameter(2)\n"
        f"{lines}\n}}\n"
    )


def moved_of(lines: str, others: str = "") -> list[tuple[str, float, float]]:
    """Return name, bytes read and bytes written of each kernel."""
    return [(k.name, k.read_bytes, k.written_bytes) for k in read_kernels(entry(lines, others))]


ROW = 8 * 64 * 2
"""Bytes of `x`."""

TAKES_A_SLICE = """%takes (p0: bf16[12,8,64], p1: s32[], p2: bf16[8,64]) -> f32[8,64] {
  %p0 = bf16[12,8,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = bf16[8,64]{1,0} parameter(2)
  %wide = f32[12,8,64]{2,1,0} convert(%p0)
  %zero = s32[] constant(0)
  %one = f32[1,8,64]{2,1,0} dynamic-slice(%wide, %p1, %zero, %zero), dynamic_slice_sizes={1,8,64}
  %flat = f32[8,64]{1,0} bitcast(%one)
  %other = f32[8,64]{1,0} convert(%p2)
  ROOT %sum = f32[8,64]{1,0} add(%flat, %other)
}
"""


def test_a_fusion_reads_the_slice_that_it_takes():
    """A slice of the table in the table's own type, the index, and all of the other operand; its result is float32."""
    line = "  ROOT %f = f32[8,64]{1,0} fusion(%t, %i, %x), kind=kLoop, calls=%takes"
    assert moved_of(line, TAKES_A_SLICE) == [("f", ROW + 4 + ROW, 2 * ROW)]


def test_an_operand_that_is_also_read_in_full_counts_in_full():
    whole = TAKES_A_SLICE.replace("add(%flat, %other)", "add(%all, %other)").replace(
        "  ROOT", "  %all = f32[8,64]{1,0} reduce(%wide, %zero), dimensions={0}, to_apply=%add\n  ROOT"
    )
    line = "  ROOT %f = f32[8,64]{1,0} fusion(%t, %i, %x), kind=kLoop, calls=%takes"
    assert moved_of(line, whole) == [("f", 12 * ROW + 4 + ROW, 2 * ROW)]


def test_a_slice_inside_an_inner_fusion_is_a_slice():
    outer = """%outer (q0: bf16[12,8,64], q1: s32[], q2: bf16[8,64]) -> f32[8,64] {
  %q0 = bf16[12,8,64]{2,1,0} parameter(0)
  %q1 = s32[] parameter(1)
  %q2 = bf16[8,64]{1,0} parameter(2)
  ROOT %inner = f32[8,64]{1,0} fusion(%q0, %q1, %q2), kind=kLoop, calls=%takes
}
"""
    line = "  ROOT %f = f32[8,64]{1,0} fusion(%t, %i, %x), kind=kCustom, calls=%outer"
    assert moved_of(line, TAKES_A_SLICE + outer) == [("f", ROW + 4 + ROW, 2 * ROW)]


UPDATES = """%updates (p0: bf16[12,8,64], p1: bf16[8,64], p2: s32[]) -> (bf16[12,8,64], f32[8]) {
  %p0 = bf16[12,8,64]{2,1,0} parameter(0)
  %p1 = bf16[8,64]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %new = bf16[1,8,64]{2,1,0} bitcast(%p1)
  %into = bf16[12,8,64]{2,1,0} dynamic-update-slice(BUFFER, %new, %p2, %zero, %zero)
  %sums = f32[8]{0} reduce(%p1, %zero), dimensions={1}, to_apply=%add
  ROOT %both = (bf16[12,8,64]{2,1,0}, f32[8]{0}) tuple(%into, %sums)
}
"""
UPDATED = "  ROOT %f = (bf16[12,8,64]{2,1,0}, f32[8]{0}) fusion(%t, %x, %i), kind=kInput, calls=%updates"


def test_an_update_in_place_writes_the_new_part():
    """And the second result; nothing of the buffer is read."""
    assert moved_of(UPDATED, UPDATES.replace("BUFFER", "%p0")) == [("f", ROW + 4, ROW + 32)]


def test_an_update_of_a_buffer_that_the_fusion_makes_writes_all_of_it():
    made = UPDATES.replace("BUFFER", "%zeros").replace(
        "  %into", "  %zeros = bf16[12,8,64]{2,1,0} broadcast(%zero), dimensions={}\n  %into"
    )
    assert moved_of(UPDATED, made) == [("f", ROW + 4, 12 * ROW + 32)]


def test_a_sum_into_some_rows_reads_and_writes_these_rows():
    scatters = """%adds (p0: f32[500,64], p1: s32[8,1], p2: f32[8,1,64]) -> f32[500,64] {
  %p0 = f32[500,64]{1,0} parameter(0)
  %p1 = s32[8,1]{1,0} parameter(1)
  %p2 = f32[8,1,64]{2,1,0} parameter(2)
  ROOT %s = f32[500,64]{1,0} scatter(%p0, %p1, %p2), update_window_dims={1,2}, to_apply=%add
}
"""
    lines = (
        "  %a = f32[500,64]{1,0} parameter(3)\n  %b = s32[8,1]{1,0} parameter(4)\n  %c = f32[8,1,64]{2,1,0} parameter(5)\n"
        "  ROOT %f = f32[500,64]{1,0} fusion(%a, %b, %c), kind=kLoop, calls=%adds"
    )
    assert moved_of(lines, scatters) == [("f", 2 * 8 * 64 * 4 + 8 * 4, 8 * 64 * 4)]


@pytest.mark.parametrize(
    ("line", "read", "written"),
    [
        ("%k = bf16[1,8,64]{2,1,0} dynamic-slice(%t, %i, %i, %i), dynamic_slice_sizes={1,8,64}", ROW, ROW),
        ("%k = bf16[12,8,64]{2,1,0} dynamic-update-slice(%t, %x, %i, %i, %i)", ROW, ROW),
        ("%k = bf16[8,8]{1,0} dot(%x, %x), lhs_contracting_dims={1}, rhs_contracting_dims={1}", 2 * ROW, 128),
        ("%k = (bf16[8,64]{1,0}, pred[8]{0}, token[]) sort(%x), dimensions={0}", ROW, ROW + 8),
        ("%k = s32[100]{0} iota(), iota_dimension=0", 0, 400),
        ("%k = f8e4m3fn[8,64]{1,0} convert(%x)", ROW, ROW / 2),
        ("%k = bf16[8,64]{1,0} all-reduce-start(%x), channel_id=1", ROW, ROW),
        ("%k = (bf16[8,64]{1,0}, bf16[64,64]{1,0}) all-gather-start(%x), channel_id=1", ROW, 8 * ROW),
        ("%k = (bf16[8,64]{1,0}, bf16[8,64]{1,0}, u32[]{:S(2)}) copy-start(%x)", ROW, ROW),
        # A TPU brings arrays to its vector memory, S(1), and takes them from there.
        ("%k = (bf16[8,64]{1,0:T(8,128)S(1)}, bf16[8,64]{1,0}, u32[]{:S(2)}) copy-start(%x)", ROW, 0),
        ("%k = (bf16[12,8,64]{2,1,0}, bf16[1,8,64]{2,1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%t)", ROW, 0),
        ("%k = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} negate(%x)", ROW, 0),
        # The host's memory is not the chip's own, and what goes there is moved.
        ("%k = bf16[8,64]{1,0:S(5)} copy(%x)", ROW, ROW),
    ],
)
def test_what_one_instruction_moves(line, read, written):
    assert moved_of(f"  ROOT {line}") == [("k", read, written)]


def test_new_memory_that_nothing_fills_is_no_kernel():
    lines = (
        '  %new = bf16[12,8,64]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"\n'
        "  ROOT %u = bf16[12,8,64]{2,1,0} dynamic-update-slice(%new, %x, %i, %i, %i)"
    )
    assert moved_of(lines) == [("u", ROW, ROW)]


def test_the_scratch_memory_of_a_library_moves_nothing():
    lines = (
        '  %p = (bf16[8,8]{1,0}, s8[33554432]{0}) custom-call(%x, %x), custom_call_target="__cublas$lt$matmul", '
        'backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}\n'
        "  ROOT %y = bf16[8,8]{1,0} get-tuple-element(%p), index=0"
    )
    (kernel,) = read_kernels(entry(lines))
    # It gets one array twice and reads it once.
    assert (kernel.read_bytes, kernel.written_bytes, kernel.kind) == (ROW, 128, "__cublas$lt$matmul")
    assert kernel.flops == 2 * 8 * 8 * 64


@pytest.mark.parametrize(
    ("name", "share"), [("packed_attention_query", 1 / 3), ("packed_attention_key", 2 / 3), ("other", 1)]
)
def test_a_kernel_writes_its_part_of_a_fused_array(name, share):
    """The last operand is the array of the result: its other parts stay as they are, and nothing of it is read."""
    lines = (
        "  %kvq = bf16[2,16,3,2,8]{4,3,2,1,0} bitcast(%x)\n"
        "  ROOT %p = (bf16[2,16,3,2,8]{4,3,2,1,0}, f32[2,2,16]{2,1,0}) custom-call(%kvq, %kvq, %kvq, %x, %q), "
        'custom_call_target="__gpu$xla.gpu.triton", output_to_operand_aliasing={{0}: (4, {})}, '
        f'backend_config={{name = "{name}"}}'
    )
    before = "  %q = bf16[2,16,3,2,8]{4,3,2,1,0} bitcast(%x)\n"
    (kernel,) = read_kernels(entry(before + lines))
    fused, x = 2 * 16 * 3 * 2 * 8 * 2, ROW
    assert kernel.read_bytes == fused + x
    assert kernel.written_bytes == int(fused * share) + 2 * 2 * 16 * 4


def test_both_branches_of_a_conditional_count():
    """Those of a boolean have names of their own."""
    branches = """%then (p: bf16[8,64]) -> bf16[8,64] {
  %p = bf16[8,64]{1,0} parameter(0)
  ROOT %twice = bf16[8,64]{1,0} add(%p, %p)
}

%otherwise (o: bf16[8,64]) -> bf16[8,64] {
  %o = bf16[8,64]{1,0} parameter(0)
  ROOT %minus = bf16[8,64]{1,0} negate(%o)
}
"""
    lines = (
        "  %t = pred[] constant(true)\n"
        "  ROOT %y = bf16[8,64]{1,0} conditional(%t, %x, %x), true_computation=%then, false_computation=%otherwise"
    )
    assert [kernel.name for kernel in read_kernels(entry(lines, branches))] == ["twice", "minus"]


LOOP = """%round (state: (s32[], bf16[8,64])) -> (s32[], bf16[8,64]) {
  %state = (s32[], bf16[8,64]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%n, %one)
  %h = bf16[8,64]{1,0} get-tuple-element(%state), index=1
  %g = bf16[8,64]{1,0} negate(%h)
  ROOT %after = (s32[], bf16[8,64]{1,0}) tuple(%next, %g)
}

%again (state.1: (s32[], bf16[8,64])) -> pred[] {
  %state.1 = (s32[], bf16[8,64]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %limit = s32[] constant(5)
  ROOT %more = pred[] compare(%n.1, %limit), direction=LT
}
"""


def test_kernels_in_a_loop_run_in_each_round():
    lines = (
        "  %zero = s32[] constant(0)\n  %first = (s32[], bf16[8,64]{1,0}) tuple(%zero, %x)\n"
        "  %loop = (s32[], bf16[8,64]{1,0}) while(%first), condition=%again, body=%round\n"
        "  ROOT %y = bf16[8,64]{1,0} get-tuple-element(%loop), index=1"
    )
    counter, negation = read_kernels(entry(lines, LOOP))
    assert (counter.name, counter.runs, counter.moved_bytes) == ("next", 5, 5 * 12)
    assert (negation.name, negation.runs, negation.moved_bytes) == ("g", 5, 5 * 2 * ROW)


PLACES = """
FileNames
1 "/somewhere/jaxbert/models/encoder.py"
2 "/somewhere/site-packages/flax/linear.py"

FunctionNames
1 "Layer.__call__.<locals>.inner"
2 "Linear.__call__"

FileLocations
1 {file_name_id=1 function_name_id=1 line=17 end_line=17 column=1 end_column=9}
2 {file_name_id=2 function_name_id=2 line=431 end_line=431 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=1}
3 {file_location_id=2 parent_frame_id=3}

"""


@pytest.mark.parametrize(
    ("metadata", "operation", "place"),
    [
        ('op_name="jit(f)/dot" stack_frame_id=2', "jit(f)/dot", "models/encoder.py:17 Layer.__call__"),
        ('op_name="jit(f)/dot" stack_frame_id=3', "jit(f)/dot", "linear.py:431 Linear.__call__"),
        ('op_name="a\\"b" source_file="/x/jaxbert/train/step.py" source_line=5', 'a\\"b', "train/step.py:5"),
        ('op_type="x"', "", ""),
    ],
)
def test_a_kernel_has_the_line_of_the_model(metadata, operation, place):
    text = entry(f"  ROOT %k = bf16[8,64]{{1,0}} negate(%x), metadata={{{metadata}}}")
    (kernel,) = read_kernels(text.replace("\n", PLACES, 1))
    assert (kernel.operation, kernel.place) == (operation, place)


def kernel(name: str, moved: float, flops: float | None = 0.0, runs: int = 1, place: str = "a.py:1 f") -> KernelCost:
    return KernelCost(name, runs, moved, 0.0, flops, "fusion", "jit(f)/add", place)


def test_the_same_kernel_of_each_layer_is_joined():
    found = join_alike(
        [
            kernel("add.1", 10, 4.0),
            kernel("add.22", 20, 8.0, runs=2),
            kernel("add", 11, 4.0),
            kernel("add.3", 10, 4.0, place="a.py:2 f"),
            kernel("call.4", 10, None),
            kernel("call.5", 10, None),
        ]
    )
    assert [(k.name, k.runs, k.moved_bytes, k.flops) for k in found] == [
        ("add", 3, 30, 12),
        ("add", 1, 11, 4),
        ("add", 1, 10, 4),
        ("call", 2, 20, None),
    ]


def compiled_bytes(function, *arguments) -> float:
    return moved_bytes(read_kernels(jax.jit(function).lower(*arguments).compile(newest()).as_text() or ""))


def test_programs_of_this_machines_compiler():
    """A sum moves three arrays, a lookup the rows that it takes, and a product its operands and its result."""
    x, table = jnp.ones((256, 64)), jnp.ones((5000, 64))
    assert compiled_bytes(lambda a, b: a + b, x, x) == 3 * 256 * 64 * 4
    ids = jnp.arange(8, dtype=jnp.int32)
    taken = compiled_bytes(lambda t, i: jnp.take(t, i, axis=0, mode="clip"), table, ids)
    assert taken == pytest.approx(2 * 8 * 64 * 4 + 8 * 4, rel=0.05)
    assert compiled_bytes(lambda a: a @ a.T, x) == 4 * (256 * 64 + 256 * 256)


def test_a_scan_moves_what_its_rounds_move():
    """Each round reads a slice of the stack, and reads and writes what it carries."""
    stack, x = jnp.ones((6, 128, 64)), jnp.ones((128, 64))

    def run(x, stack):
        return jax.lax.scan(lambda x, w: (jnp.sin(x) * w, None), x, stack)[0]

    text = jax.jit(run).lower(x, stack).compile(newest()).as_text() or ""
    rounds = [k for k in read_kernels(text) if k.runs == 6]
    assert moved_bytes(rounds) == pytest.approx(6 * 3 * 128 * 64 * 4, rel=0.01)
