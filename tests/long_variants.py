"""Variants that are left out unless asked for by `-m long`: others of the same test run each time.

What has no other variant in the suite is marked where it stands.
"""

from __future__ import annotations

import pytest

VARIANTS = {
    "bench/test_bench.py::test_an_interruption_is_one_line": ("timing 100000 training",),
    "models/test_heads.py::test_masked_positions_are_a_choice_of_all": ("call1-MaskedLM", "call1-PreTraining"),
    "models/test_positions.py::test_same_logits_and_gradients_as_the_full_layer": ("True-1", "False-3"),
    "models/test_remat.py::test_the_gradient_stays": ("dots-unrolled", "full-scan"),
    "parity/test_torch_classifier.py::test_loss_and_every_gradient": ("gelu_pytorch_tanh", "silu", "tanh"),
    "tasks/test_pretraining.py::test_slices_add_up_to_the_step": ("no pairs",),
    "train/test_accumulate.py::test_documents_across_slices": ("mean-3", "max-2", "max-6"),
    "train/test_bad_steps.py::test_it_changes_nothing_but_the_count_of_steps": ("2-slices", "frozen"),
    "train/test_bad_steps.py::test_the_steps_after_it_are_those_of_a_run_without_it": ("2-slices", "frozen"),
    "runs/test_bucket.py::test_a_crash_changes_no_bit": ("s3",),
    "runs/test_damaged.py::test_the_one_before_is_used": ("remove_largest", "remove_list", "garble_progress"),
    "train/test_dispatch.py::test_a_run_goes_on_with_any_number": ("1",),
    "train/test_resume.py::test_a_crash_changes_no_bit": (
        "mid-epoch-crashes0-3",  # "twice" begins with it
        "behind an epoch-crashes1-7",
        "before any save-crashes3-None",
    ),
    "train/test_resume.py::test_a_signal_changes_no_bit": ("SIGTERM-75",),
    "bench/test_every_task.py::test_it_is_timed": ("multi_label", "regression", "documents", "token_classification"),
    "bench/test_every_task.py::test_it_is_planned": ("multi_label", "regression", "documents", "token_classification"),
    "data/test_memory.py::test_memory_of_items_is_flat": ("token_classification",),
    "models/test_residual.py::test_a_model_on_a_gpu_is_the_model_elsewhere": ("False",),
    "plan/test_topology.py::test_all_products_are_counted": ("xla-3", "splash-3.5"),
    "plan/test_topology.py::test_how_often_loops_run_is_known": ("unrolled",),
    "train/test_trained.py::test_a_step_of_the_trained_part_is_the_whole_step": (
        "embeddings]",
    ),  # "embeddings and layers" has it
    "train/test_tasks.py::test_packed_padded_and_sliced": ("documents by their largest",),
    "train/test_compilations.py::test_the_state_is_updated_in_place": ("data-3", "fsdp-1"),
    "train/test_optimizers.py::test_a_bad_step_changes_nothing_but_the_count_of_steps": ("lamb", "lion", "sgd", "muon"),
    "train/test_trained.py::test_meshes_and_slices_take_the_same_steps": ("tensor",),
    "train/test_trajectory.py::test_variants_take_the_same_steps": ("fsdp",),
    "understand/test_folds.py::test_every_task_that_gives_an_answer_for_a_row": (
        "multi_label-False",
        "regression-False",
        "multiple_choice-False",
    ),
}


def mark(items: list[pytest.Item]) -> None:
    """Mark them; a name that no test of its file has any more is an error."""
    for test, variants in VARIANTS.items():
        path, _, name = test.partition("::")
        found = {item.name: item for item in items if item.nodeid.startswith(f"tests/{path}::{name}[")}
        for variant in variants if found else ():
            names = [other for other in found if other.startswith(f"{name}[{variant}")]
            if not names and len(found) > 1:
                raise pytest.UsageError(f"tests/long_variants.py: {test} has no variant {variant!r}")
            for other in names:
                found[other].add_marker("long")
