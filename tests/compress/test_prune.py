"""A pruned model computes what the large one does without its parts; stages along training survive crashes, bit by bit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util
from runs import (
    CrashError,
    Problem,
    assert_close_params,
    crash_before,
    make_config,
    make_program,
    random_tokens,
    read_metrics,
    run_steps,
    small_config,
    weights,
    whole_losses,
)
from safetensors.numpy import load_file
from tiny import random_params, random_rows, tiny_config, unpacked_batch

from jaxbert.cli.main import main
from jaxbert.compress.importance import _batches, _loss, _losses, _scores, choose_cut
from jaxbert.compress.prune import PruningStages, cut_state
from jaxbert.compress.sizes import Remnant, Sizes, target_sizes
from jaxbert.config import Pruning
from jaxbert.data.examples import Examples
from jaxbert.errors import UserError
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.runs.checkpoint import Checkpoints

pytestmark = pytest.mark.usefixtures("shared_programs")

LAYER = ("bert", "encoder", "layer")
HEADS, COLUMNS = np.array([[0, 3], [1, 2]]), np.array([[*range(0, 32, 2)], [*range(7, 23)]])


def logits_of(params: Any, **sizes: int) -> np.ndarray:
    """Return the logits of a tiny model of these sizes, in one compiled program."""
    model = make_model(SequenceClassificationHead, tiny_config(intermediate_size=32, **sizes))
    batch = unpacked_batch(random_rows())
    return np.asarray(jax.jit(lambda p: model.apply(p, batch)["logits"])(params))


def test_a_cut_model_is_the_large_one_without_its_parts():
    """Layers are left out; heads and columns give 0. In float32, by 1e-5."""
    model = make_model(SequenceClassificationHead, tiny_config(intermediate_size=32))
    params = random_params(model)
    cut = Remnant(np.array([0, 2]), HEADS, COLUMNS, head_width=8)
    smaller = make_model(
        SequenceClassificationHead,
        Sizes(num_hidden_layers=2, num_attention_heads=2, intermediate_size=16).applied(tiny_config()),
    )
    batch = unpacked_batch(random_rows())
    found = np.asarray(jax.jit(lambda p: smaller.apply(p, batch)["logits"])(cut.params(params)))
    flat = {path: np.array(leaf) for path, leaf in traverse_util.flatten_dict(params).items()}
    for path in flat:
        if path[:3] == LAYER:
            flat[path] = flat[path][[0, 2]]
    attention, output = (*LAYER, "attention", "output", "dense", "kernel"), (*LAYER, "output", "dense", "kernel")
    for layer in range(2):
        gone = np.setdiff1d(np.arange(4), HEADS[layer])
        flat[attention][layer].reshape(4, 8, -1)[gone] = 0
        flat[output][layer][np.setdiff1d(np.arange(32), COLUMNS[layer])] = 0
    expected = logits_of(traverse_util.unflatten_dict(flat), num_hidden_layers=2)
    np.testing.assert_allclose(found, expected, atol=1e-5)


class Parts:
    """What `choose_cut` asks of a run."""

    def __init__(self, **changes: Any) -> None:
        config = make_config(train__batch_size=16, **changes)
        bert = small_config(num_attention_heads=4, num_hidden_layers=3)
        self.config, self.program = config, make_program(config, bert, 10)
        tokens = random_tokens(64)
        examples = Examples(tokens, (tokens.ids[tokens.begins + 1] % 2).astype(np.int32))
        self.inputs = dataclasses.make_dataclass("I", ["validation", "collate"])({"validation": examples}, None)
        self.params = self.program.first_state(random_params(self.program.model))["params"]

    def cut(self, params: Any, sizes: Sizes) -> Remnant:
        found: Any = self
        return choose_cut(found, params, sizes, most=64)


@pytest.fixture(scope="module")
def parts():
    return Parts()


def test_what_does_nothing_goes_first(parts):
    """Heads and columns whose output is multiplied by almost 0, in each layer others."""
    params = jax.tree.map(np.array, parts.params)
    layer = params["bert"]["encoder"]["layer"]
    for at in range(3):
        layer["attention"]["output"]["dense"]["kernel"][at].reshape(4, 8, -1)[[at, 3]] *= 1e-4
        layer["output"]["dense"]["kernel"][at][at * 10 : at * 10 + 34] *= 1e-4
    cut = parts.cut(params, Sizes(3, 2, 30))
    for at in range(3):
        assert cut.heads[at].tolist() == sorted({0, 1, 2, 3} - {at, 3})[:2]
        assert cut.columns[at].tolist() == [c for c in range(64) if not at * 10 <= c < at * 10 + 34]


def test_a_layer_that_changes_nothing_can_go(parts):
    """The second layer adds 0 to a normal vector: without it the loss is that of the whole model."""
    params = jax.tree.map(np.array, parts.params)
    layer = params["bert"]["encoder"]["layer"]
    for half in (layer["attention"], layer):
        dense = half["output"]
        dense["dense"]["kernel"][1], dense["dense"]["bias"][1] = 0, 0
        dense["LayerNorm"]["scale"][1], dense["LayerNorm"]["bias"][1] = 1, 0
    layer["output"]["LayerNorm"]["scale"][0], layer["output"]["LayerNorm"]["bias"][0] = 1, 0
    found: Any = parts
    measured = [parts.program.put(batch) for batch in _batches(found, 64)]
    without = _losses(found, params, measured, [np.array([1, 2]), np.array([0, 2]), np.array([0, 1])])
    (whole,) = _losses(found, params, measured, [np.arange(3)])
    assert without[1] == pytest.approx(whole, rel=1e-5)
    assert abs(without[0] - whole) > 1e-3 < abs(without[2] - whole)
    least = int(np.argmin(without))
    assert parts.cut(params, Sizes(2, 4, 64)).layers.tolist() == [at for at in range(3) if at != least]


def test_importance_is_what_the_loss_loses_to_first_order(parts):
    """A head that is turned down by a little changes the loss by that share of its importance; any mesh says the same."""
    found: Any = parts
    measured = [parts.program.put(batch) for batch in _batches(found, 16)]
    assert len(measured) == 1
    heads, columns = _scores(found, parts.params, measured)
    loss = jax.jit(lambda p: _loss(parts.program.model, parts.program.task, parts.program.call, p, measured[0])[0])
    params = jax.tree.map(np.array, parts.params)
    layer = params["bert"]["encoder"]["layer"]
    changed = [float(loss(params))]
    for turn in (0.99, 1.01 / 0.99):
        layer["attention"]["output"]["dense"]["kernel"][1].reshape(4, 8, -1)[2] *= turn
        changed.append(float(loss(params)))
    assert heads[1, 2] == pytest.approx(abs(changed[2] - changed[1]) / 0.02, rel=2e-2)
    other: Any = Parts(mesh__data=2, mesh__fsdp=2, mesh__tensor=2)
    again = _scores(other, other.params, [other.program.put(batch) for batch in _batches(other, 16)])
    for one, two in zip((heads, columns), again, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ["adamw", pytest.param("muon", marks=pytest.mark.long)])
def test_the_optimizer_follows(parts, name):
    """The moments of what is left are those that it had; the counters go on."""
    config = make_config(train__batch_size=16, optimizer__name=name)
    before = make_program(config, small_config(num_attention_heads=4, num_hidden_layers=3), 10)
    sizes = Sizes(2, 2, 16)
    after = make_program(config, sizes.applied(small_config()), 10)
    state = before.first_state(random_params(before.model))
    state["opt_state"] = jax.tree.map(lambda x: x + np.asarray(3, x.dtype), state["opt_state"])
    if name == "adamw":
        state["opt_state"] = optax.tree.set(state["opt_state"], mu=random_params(before.model, seed=7))
    cut = Remnant(np.array([0, 2]), HEADS, COLUMNS, head_width=8)
    found = cut_state(cut, jax.device_get(state), before, after)
    assert jax.tree.map(lambda x: x.shape, found) == jax.tree.map(lambda x: x.shape, after.state_target)
    assert [int(x) for x in jax.tree.leaves(found["opt_state"]) if x.ndim == 0] == [3] * sum(
        x.ndim == 0 for x in jax.tree.leaves(found["opt_state"])
    )
    if name == "adamw":
        kernel = optax.tree.get(found["opt_state"], "mu")["bert"]["encoder"]["layer"]["intermediate"]["dense"]["kernel"]
        whole = random_params(before.model, seed=7)["bert"]["encoder"]["layer"]["intermediate"]["dense"]["kernel"]
        expected = np.stack([whole[layer][:, COLUMNS[place]] for place, layer in enumerate((0, 2))])
        np.testing.assert_array_equal(kernel, expected)


def test_the_zeros_of_removed_heads_stay_zeros():
    """So training goes on as if the heads were not there."""
    config = make_config(train__batch_size=16, optimizer__learning_rate=1e-2)
    program = make_program(config, small_config(num_attention_heads=2), 5)
    large = make_program(config, small_config(num_attention_heads=4), 5)
    cut = Remnant(np.arange(2), HEADS, np.tile(np.arange(64), (2, 1)), head_width=8)
    tokens = random_tokens(80)
    examples = Examples(tokens, (tokens.ids[tokens.begins + 1] % 2).astype(np.int32))
    params = run_steps(program, jax.device_get(cut.params(random_params(large.model))), examples).params
    layer = params["bert"]["encoder"]["layer"]["attention"]
    for kernel in (layer["self"]["query"]["kernel"], layer["self"]["key"]["kernel"], layer["self"]["value"]["kernel"]):
        assert not kernel.reshape(2, 32, 2, 16)[..., 8:].any()
        assert kernel.reshape(2, 32, 2, 16)[..., :8].all()
    assert not layer["output"]["dense"]["kernel"].reshape(2, 2, 16, 32)[:, :, 8:].any()


def test_sizes_go_down_in_equal_parts():
    config = tiny_config(num_hidden_layers=6, hidden_size=48, num_attention_heads=12, intermediate_size=192)
    pruning = Pruning.of({"layers": 3, "heads": 0.3, "intermediate": 0.5, "steps": [2, 5, 7]})
    target = target_sizes(pruning, config)
    assert target == Sizes(3, 4, 96)
    shapes = [Sizes.of(config)]
    for left in (3, 2, 1):
        shapes.append(shapes[-1].towards(target, left, 48))
    assert shapes[1:] == [Sizes(5, 12, 160), Sizes(4, 8, 128), Sizes(3, 4, 96)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"intermediate": 0}, "intermediate is 0, but it must be a whole number from 1, or a share"),
        ({"steps": [1]}, "names nothing to prune"),
        ({"layers": 1, "steps": [3, 1]}, "steps is (3, 1), but it must be a rising list"),
        ({"columns": 3}, "has 'columns', but its settings are layers, heads, intermediate, steps, examples"),
        ({"layers": 7}, "layers is 7, but the model has 3: lower it"),
        ({"heads": 3}, "heads is 3, but it must divide the model's width of 32: take one of 1, 2, 4"),
    ],
)
def test_what_cannot_be_pruned_is_refused(values, said):
    with pytest.raises(UserError) as caught:
        target_sizes(Pruning.of(values), tiny_config())
    assert said in str(caught.value)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


def keys(problem: Problem, run: str, **changes: Any) -> dict[str, Any]:
    common = {
        "data__validation": problem.folder / "dev.csv",
        "train__checkpoint_every": 3,
        "train__eval_every": 4,
        "train__prune": "{layers: 1, heads: 1, intermediate: 0.25, steps: [2, 6]}",
        "train__epochs": 2,
    }
    return common | {"train__output_dir": problem.folder / run} | changes


def test_a_crash_changes_no_bit(problem, monkeypatch, tmp_path):
    """Before a stage, between stages and behind the last one; a checkpoint has the shape of its step.

    The run keeps a moving average, which is cut like the parameters.
    """
    whole, run = problem.folder / "whole", problem.folder / "stopped"
    assert problem.train(**keys(problem, "whole", train__ema=0.9)) == 0
    for step in (5, 7):  # goes on from 4, and from 6, where the second stage is due
        with monkeypatch.context() as patch:
            crash_before(patch, step)
            with pytest.raises(CrashError):
                problem.train(**keys(problem, "stopped", train__ema=0.9))
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        assert checkpoints.steps[-1] == 6
    assert main(["export", "--run", str(run), "--step", "6", "--output", str(tmp_path / "six")]) == 0
    assert json.loads((tmp_path / "six" / "config.json").read_text())["intermediate_size"] == 40
    assert problem.train(**keys(problem, "stopped", train__ema=0.9)) == 0
    assert weights(run) == weights(whole)
    assert whole_losses(run) == whole_losses(whole)
    summary = json.loads((run / "summary.json").read_text())
    after = {"num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    assert summary["pruned"]["after"] == after
    assert summary["parameters"] == sum(t.size for t in load_file(run / "export" / "model.safetensors").values())
    config = json.loads((run / "export" / "config.json").read_text())
    assert after.items() <= config.items()
    assert [line["step"] for line in read_metrics(run) if "eval_loss" in line] == [4, 8, 12, 14]
    assert summary["exported_step"] > 6


def test_other_programs_open_it(problem):
    """PyTorch and ONNX Runtime give the logits of our own predictor, by 1e-4 and 1e-4."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    onnx = pytest.importorskip("onnxruntime")
    run = problem.folder / "whole"
    if not (run / "summary.json").exists():
        assert problem.train(**keys(problem, "whole")) == 0
    target = problem.folder / "graphs"
    assert main(["export", "--run", str(run), "--format", "onnx", "--output", str(target)]) == 0
    texts = ["w1 good w2", "bad w3 w4 w5", "w6"]
    from jaxbert import load

    answers = load(run).predict(texts)
    expected = np.log([list(answer["probabilities"].values()) for answer in answers])
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(target).eval()
    encoded = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(**encoded).logits.log_softmax(-1).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    session = onnx.InferenceSession(target / "onnx" / "model.onnx")
    (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in encoded.items()})
    np.testing.assert_allclose(logits, model(**encoded).logits.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__prune": "{layers: 1, steps: [14]}"}, "steps has 14, but the run has 14 steps"),
        ({"train__prune": "{layers: 2}"}, "the model has these sizes already"),
        ({"train__folds": 2, "train__prune": "{layers: 1}"}, "train.prune does not work with train.folds"),
        ({"optimizer__freeze": '["embeddings"]'}, "train.prune does not work with optimizer.freeze"),
        ({"optimizer__name": "adafactor"}, "steps after the first do not work with optimizer.name adafactor"),
    ],
)
def test_a_run_that_cannot_be_pruned_is_one_line(problem, capsys, changes, said):
    assert problem.train(**keys(problem, "refused", **changes)) == 2
    assert said in capsys.readouterr().err
    assert not (problem.folder / "refused" / "config.yaml").exists()


@pytest.mark.long
def test_early_stopping_waits_for_the_last_shape(problem):
    """A model that has stopped to improve is pruned all the same."""
    patience = {"train__early_stopping_patience": 1, "train__eval_every": 1, "optimizer__learning_rate": 1e-9}
    assert problem.train(**keys(problem, "early", **patience, train__prune="{intermediate: 8, steps: [4]}")) == 0
    summary = json.loads((problem.folder / "early" / "summary.json").read_text())
    assert 4 < summary["steps"] < 14
    assert json.loads((problem.folder / "early" / "export" / "config.json").read_text())["intermediate_size"] == 8
    assert summary["exported_step"] > 4


def test_stages_know_their_steps():
    stages = PruningStages(Pruning.of({"layers": 1, "steps": [0, 4]}))
    assert [stages.next_after(step) for step in (0, 3, 4)] == [4, 4, None]
    assert [stages.is_due(step) for step in (0, 3, 4)] == [True, False, True]


def test_packed_and_padded_and_any_mesh(problem, tmp_path):
    """The same parts are left, and the losses are the same: packed, padded, and on a mesh with tensor and fsdp."""
    ways = {
        "packed": {},
        "padded": {"data__packing": False, "mesh__fsdp": 2, "mesh__tensor": 2},
    }
    losses = []
    for name, changes in ways.items():
        run = tmp_path / name
        prune = "{heads: 1, intermediate: 0.5, steps: [2]}"
        more = {"model__dropout": 0, "train__prune": prune, "train__max_steps": 6, "train__output_dir": run}
        assert problem.train(**keys(problem, name, **more, **changes)) == 0
        losses.append([*whole_losses(run).values()])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    params = [load_file(tmp_path / name / "export" / "model.safetensors") for name in ways]
    assert_close_params({k: {"": v} for k, v in params[0].items()}, {k: {"": v} for k, v in params[1].items()}, 1e-4)
