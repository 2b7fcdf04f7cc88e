"""Prune a model before or along its training: `train.prune`.

At each of its steps the trainer asks `PruningStages` for the next shape. `importance` chooses by the parameters of that
moment, and parameters and optimizer state are cut alike, so a run that goes on from a checkpoint before the step makes the
same choice again. A checkpoint has the shape of its step: of a step at which a change is due, the one before it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from flax import traverse_util

from jaxbert.compress.importance import choose_cut
from jaxbert.compress.sizes import Remnant, Sizes, target_sizes
from jaxbert.config import Config, Pruning
from jaxbert.errors import UserError
from jaxbert.train.programs import Program
from jaxbert.train.run import Additions, Run
from jaxbert.train.sharding import owner
from jaxbert.train.step import State, init_state


class PruningStages:
    """The shapes of a run that is pruned (`Stages`)."""

    def __init__(self, pruning: Pruning) -> None:
        self._pruning = pruning
        self._shapes: list[Sizes] = []

    def check(self, run: Run) -> None:
        """Decide all shapes of a run that was just opened.

        Raises:
          UserError: for sizes that the model cannot have, or steps that the run does not take.
        """
        steps, total, config = self._pruning.steps, run.program.total_steps, run.pretrained.bert_config
        if steps[-1] >= total:
            raise UserError(f"train.prune: steps has {steps[-1]}, but the run has {total} steps: name earlier ones")
        target, self._shapes = target_sizes(self._pruning, config), [Sizes.of(config)]
        for left in range(len(steps), 0, -1):
            self._shapes.append(self._shapes[-1].towards(target, left, config.hidden_size))
        if self._shapes[0] == target:
            raise UserError("train.prune: the model has these sizes already: ask for less, or leave it out")

    def next_after(self, step: int) -> int | None:
        """Return the next step before which the shape changes, after `step` steps; None if there is none."""
        return next((change for change in self._pruning.steps if change > step), None)

    def is_due(self, step: int) -> bool:
        """Return whether the shape changes when `step` steps are taken."""
        return step in self._pruning.steps

    def at(self, run: Run, step: int) -> Run:
        """Return the run with the shape that its checkpoint of this step has: the one before a change that is due."""
        done = sum(change < step for change in self._pruning.steps)
        return resized(run, self._shapes[done]) if done else run

    def change(self, run: Run, state: State, step: int) -> tuple[Run, State]:
        """Return the run and its state with the next shape."""
        sizes = self._shapes[self._pruning.steps.index(step) + 1]
        cut, smaller = choose_cut(run, state["params"], sizes, self._pruning.examples), resized(run, sizes)
        return smaller, cut_state(cut, state, run.program, smaller.program)

    def facts(self) -> dict[str, Any]:
        """Return the entry of the summary: the sizes before and after."""
        before, after = (dataclasses.asdict(self._shapes[place]) for place in (0, -1))
        return {"pruned": {"before": before, "after": after, "steps": list(self._pruning.steps)}}


def pruned(config: Config, additions: Additions) -> Additions:
    """Return the additions of a run with the stages of `train.prune`; unchanged if it is not set."""
    if config.train.prune is None:
        return additions
    stages = PruningStages(Pruning.of(config.train.prune))
    return dataclasses.replace(additions, stages=stages, facts=lambda: {**additions.facts(), **stages.facts()})


def resized(run: Run, sizes: Sizes) -> Run:
    """Return a run with the same task, data and schedule for a model of other sizes."""
    bert_config, old = sizes.applied(run.pretrained.bert_config), run.program
    task = run.inputs.task
    program = Program.of(run.config, old.mesh, task.configure(bert_config), task, old.total_steps)
    pretrained = dataclasses.replace(run.pretrained, bert_config=bert_config)
    return dataclasses.replace(run, pretrained=pretrained, program=dataclasses.replace(program, tuned=old.tuned))


def cut_state(cut: Remnant, state: State, before: Program, after: Program) -> State:
    """Return what is left of a state: parameters, and statistics of the optimizer in their shapes; the rest stays.

    A statistic that has another shape than its parameter begins anew.
    """
    shapes = {
        "/".join(path): leaf.shape for path, leaf in traverse_util.flatten_dict(before.model.abstract_params).items()
    }

    def smaller(state: State) -> State:
        params = cut.params(state["params"])
        fresh = init_state(params, after.optimizer)

        def left(path: tuple[Any, ...], new: Any, old: Any) -> Any:
            name = owner(path, shapes)
            if name is not None and old.shape == shapes[name]:
                return cut.leaf(tuple(name.split("/")), old)
            return old if old.shape == new.shape else new

        opt_state = jax.tree.map_with_path(left, fresh["opt_state"], state["opt_state"])
        kept = {"ema": cut.params(state["ema"])} if "ema" in state else {}
        return {"step": state["step"], "params": params, "opt_state": opt_state, **kept}

    return jax.jit(smaller, out_shardings=after.state_shardings)(state)
