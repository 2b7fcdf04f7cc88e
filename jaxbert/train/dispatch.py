"""How many optimizer steps the device is given at once.

Where a step is short, the host's work for it shows. Consecutive steps whose batches have one shape then run as one
program, a group. What a step computes is `step`'s part; when to evaluate, save and stop is the loop's, and no group goes
past such a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from jaxbert.data.batches import Batch, BatchSize
from jaxbert.train.compiled import Compiled
from jaxbert.train.step import DeviceBatch


@dataclass(frozen=True)
class Group:
    """Steps that run as one program; where they are several, their arrays have a leading axis for them."""

    sizes: tuple[BatchSize, ...]
    example_ids: tuple[np.ndarray, ...]
    """Of each step."""
    batch: DeviceBatch

    def without_batch(self) -> Group:
        """Return what there is to know of the steps when they have run; the batch may leave the device."""
        return replace(self, batch={})


@dataclass(frozen=True)
class StepPrograms:
    """The step alone, and several in a loop."""

    one: Compiled
    several: Compiled

    def for_group(self, group: Group) -> Compiled:
        """Return the one that runs this group."""
        return self.one if len(group.sizes) == 1 else self.several

    @property
    def count(self) -> int:
        """Programs compiled so far."""
        return self.one.count + self.several.count


def group_batches(
    batches: Iterator[Batch], most: int, first_step: int, is_last: Callable[[int], bool]
) -> Iterator[list[Batch]]:
    """Yield `most` consecutive batches of one shape together, and shorter stretches batch by batch.

    So each shape has two programs, one step and `most`, whatever the lengths of the stretches.

    Args:
      batches: in order.
      most: batches of a group.
      first_step: steps taken before.
      is_last: whether a group must end with the step of this number, counted from 1.
    """
    stretch: list[Batch] = []
    for step, batch in enumerate(batches, first_step + 1):
        if stretch and _shapes(stretch[-1]) != _shapes(batch):
            yield from ([single] for single in stretch)
            stretch = []
        stretch.append(batch)
        if len(stretch) == most:
            yield stretch
            stretch = []
        elif is_last(step):
            yield from ([single] for single in stretch)
            stretch = []
    yield from ([single] for single in stretch)


def _shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in batch.items()}
