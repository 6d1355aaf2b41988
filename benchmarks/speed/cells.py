"""The work that is timed: what each cell of the benchmark asks of a library."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = [
    "CELLS",
    "FREQUENCIES",
    "SMALL_BATCH",
    "TOLERANCE",
    "Cell",
    "Seconds",
    "Work",
    "make_batches",
    "make_velocity_weights",
]


@dataclasses.dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        name: What the cell is called, such as `"W2"`.
        kind: The kind of flow: `"additive"`, `"affine"`, `"spline"`, `"reflections"`, `"maf"`,
            `"glow"`, `"pairs"`, `"continuous"` or `"adaptive"`.
        title: What it is, for people.
        shape: The shape of one instance.
        depth: The number of blocks; of reflections for `"reflections"`, and of steps of the solver
            for `"continuous"`.
        hidden: Units of the hidden layers of each conditioner.
        batch: The batch size.
        measures_memory: Whether memory is what counts, so that few steps are taken.
        is_large: Whether a step is so large that an accelerator is busy with matrix products, whose
            rate counts. These cells are measured only where they are asked for.
    """

    name: str
    kind: str
    title: str
    shape: tuple[int, ...]
    depth: int
    hidden: tuple[int, ...] = (128, 128)
    batch: int = 512
    measures_memory: bool = False
    is_large: bool = False

    @property
    def size(self) -> int:
        """The number of dimensions of an instance."""
        return int(np.prod(self.shape))


SMALL_BATCH = "W6-16-small"
# The velocities of flows in continuous time are given cos(k t) and sin(k t) for these k, beside t.
FREQUENCIES = np.pi * np.arange(1, 5, dtype="float32")
# The relative and the absolute one of adaptive solvers.
TOLERANCE = 1e-5
_AFFINE = "8 affine couplings, 64 dimensions, MLP (128, 128)"
_GLOW = (
    "squeeze, 4 × (ActNorm, 1×1 convolution, affine coupling with 64 channels), 16×16×3, batch {}"
)
_DEEP = "affine couplings, 256 dimensions, MLP (512, 512), batch 4096"
_ALL = [
    Cell(
        "W1",
        "additive",
        "8 × (ActNorm, additive coupling, half swap), 64 dimensions, MLP (128, 128)",
        (64,),
        8,
    ),
    Cell("W2", "affine", _AFFINE, (64,), 8),
    Cell(
        "W3",
        "spline",
        "6 rational-quadratic couplings, 16 dimensions, 8 bins, MLP (128, 128)",
        (16,),
        6,
    ),
    Cell(
        "W4-128",
        "reflections",
        "128 reflections in 128 dimensions, batch 1024",
        (128,),
        128,
        (),
        1024,
    ),
    Cell(
        "W4-512",
        "reflections",
        "512 reflections in 512 dimensions, batch 1024",
        (512,),
        512,
        (),
        1024,
    ),
    Cell("W5", "maf", "5 masked autoregressive layers, 16 dimensions, (128, 128)", (16,), 5),
    *(
        Cell(f"W6-{depth}", "affine", f"{depth} {_DEEP}", (256,), depth, (512, 512), 4096, True)
        for depth in (4, 16, 32, 64)
    ),
    # What a step needs for weights and their updates alone, to be subtracted from the others.
    Cell(SMALL_BATCH, "affine", "16 of them, batch 8", (256,), 16, (512, 512), 8, True),
    Cell(
        "W7",
        "glow",
        _GLOW.format(64),
        (16, 16, 3),
        4,
        (64, 64),
        64,
    ),
    Cell(
        "W8", "pairs", "12 blocks of width 512 on pairs of 64-dimensional codes", (64,), 12, (512,)
    ),
    Cell("W9-32", "affine", f"{_AFFINE}, batch 32", (64,), 8, batch=32),
    Cell("W9-16384", "affine", f"{_AFFINE}, batch 16384", (64,), 8, batch=16384),
    Cell("W2-large", "affine", f"{_AFFINE}, batch 131072", (64,), 8, batch=131072, is_large=True),
    Cell("W7-large", "glow", _GLOW.format(4096), (16, 16, 3), 4, (64, 64), 4096, is_large=True),
    Cell(
        "W10",
        "continuous",
        "flow in continuous time, trained by flow matching and solved by 16 steps of RK4, 64 "
        "dimensions, MLP (256, 256, 256)",
        (64,),
        16,
        (256, 256, 256),
    ),
    Cell(
        "W11",
        "adaptive",
        "the same with given weights, solved by Dormand–Prince with tolerances of 1e-5",
        (64,),
        1,
        (256, 256, 256),
    ),
]
CELLS = {cell.name: cell for cell in _ALL}


class Seconds(float):
    """A time that a function took by itself."""


@dataclasses.dataclass
class Work:
    """A cell, as a library does it. Each function returns when its results are there.

    Attributes:
        train: Takes a number of training steps: likelihood (but for pairs and `"continuous"`),
            Adam, one batch a step. For reflections, it runs forward and backward that many times,
            and for `"adaptive"`, it draws that many batches of samples. Where it prepares data
            before that, it returns the seconds that the steps took.
        log_prob: Computes log-densities of a batch. For reflections, it runs forward. In continuous
            time, traces are estimated by one random vector.
        sample: Draws a batch of samples. For reflections, it runs the inverse.
        weight_count: The number of trained numbers.
        count_memory: See `speed.memory.get_counter`.
        product_count: The number of products of two numbers, within products of matrices, in the
            forward pass of a batch. Of a training step, there are three times as many.
        measure_rate: Returns how many operations in a second products of large matrices take.
    """

    train: Callable[[int], Any]
    log_prob: Callable[[], None] | None = None
    sample: Callable[[], None] | None = None
    weight_count: int = 0
    count_memory: Callable[[], tuple[int, int]] | None = None
    product_count: int = 0
    measure_rate: Callable[[], float] | None = None


def make_batches(cell: Cell, count: int = 8) -> np.ndarray:
    """Makes data that every library is given.

    Args:
        cell: The cell.
        count: The number of batches.

    Returns:
        Standard normal numbers, float32, `[count, batch, *shape]`.
    """
    shape = (count, cell.batch, *cell.shape)
    return np.random.default_rng(0).standard_normal(shape, dtype="float32")


def make_velocity_weights(cell: Cell) -> list[np.ndarray]:
    """Makes weights of the velocity of an `"adaptive"` cell, which every library is given.

    Args:
        cell: The cell.

    Returns:
        The kernel, `[inputs, outputs]`, and the bias of each dense layer, one after the other, for
        the list of points, time, and its cosines and sines as inputs. All hidden layers but the
        first are added to their inputs.
    """
    random = np.random.default_rng(0)
    sizes = [cell.size + 1 + 2 * len(FREQUENCIES), *cell.hidden, cell.size]
    weights = []
    # So large that Dormand and Prince need as many steps as after training on 8×8 digits.
    for before, after in itertools.pairwise(sizes):
        weights.append(random.normal(0.0, 1.2 / np.sqrt(before), (before, after)))
        weights.append(random.normal(0.0, 0.5, after))
    return [weight.astype("float32") for weight in weights]
