"""Transport: two moons become eight Gaussians, without a single pair to learn from.

A flow in continuous time moves the points of one data set to where another one has its points. It
is trained by flow matching: a point of each is drawn, the two are joined by a straight line, and a
network learns the mean velocity of all lines through a point at a time. Which point is joined with
which is free. Drawn at random, lines cross, and the paths of the flow bend where they do. Joined by
optimal transport within each batch, they hardly cross: paths are almost straight and short, and a
single step of the solver goes a long way.

The result is measured by the Wasserstein distance of transported points to fresh data, that is by
the best possible assignment of one to the other, which SciPy finds. Two samples of the same data
have one, too, and no model can do better on average. Points that stay where they are, and data that
are turned by half the angle between two Gaussians, show that the measure tells a difference.

Run it with `python examples/transport.py`; it takes three minutes on two cores.

References:
    - Tong, A. et al. (2023). "Improving and generalizing flow-based generative models with
      minibatch optimal transport." `arXiv:2302.00482 <https://arxiv.org/abs/2302.00482>`_
"""

import argparse
import itertools
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from gyoza.data.toy import EightGaussians, TwoMoons
from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.distributions import Empirical
from gyoza.modelling.flow_layers import FlowMatchingModel
from gyoza.modelling.functions import solve

plt.switch_backend("Agg")  # draws into files and needs no display

COUPLINGS = {"independent": "#d55e00", "optimal": "#0072b2"}
"""How points are joined in training, and the colour of each."""

TRAINING_COUNT = 20_000
TEST_COUNT = 500
REPEAT_COUNT = 5
"""How many fresh samples of each distribution a distance is averaged over."""

HIDDEN_SIZES = [128, 128, 128]
BATCH_SIZE = 128
EPOCH_COUNT = 60
LEARNING_RATE = 2e-3
STEP_COUNTS = [1, 2, 4, 8, 16]
PATH_COUNT = 150


# --- The data ----------------------------------------------------------------------------------


def draw_source(count: int, seed: int) -> np.ndarray:
    """Draws points of two moons within the circle of the Gaussians, `[count, 2]`."""
    return 2.0 * (TwoMoons(noise=0.2).sample(count, seed) - np.array([0.5, 0.25], "float32"))


def draw_target(count: int, seed: int) -> np.ndarray:
    """Draws points of eight Gaussians on a circle, `[count, 2]`."""
    return EightGaussians().sample(count, seed)


def turn(points: np.ndarray) -> np.ndarray:
    """Turns points by half the angle between two Gaussians."""
    sine, cosine = np.sin(np.pi / 8), np.cos(np.pi / 8)
    return points @ np.array([[cosine, sine], [-sine, cosine]], "float32")


def measure_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Computes the Wasserstein distance of order 2 between as many points of two samples.

    Args:
        x: Points, `[count, 2]`.
        y: Other points, `[count, 2]`.

    Returns:
        The root of the mean squared distance between the points of the best assignment.
    """
    squares = cdist(x, y, "sqeuclidean")
    return float(np.sqrt(squares[linear_sum_assignment(squares)].mean()))


# --- The flow ----------------------------------------------------------------------------------


def train(coupling: str, seed: int) -> FlowMatchingModel:
    """Trains a flow from the source to the target.

    Args:
        coupling: A key of `COUPLINGS`.
        seed: The seed of data and model.

    Returns:
        The model. Its latents are points of the source.
    """
    keras.utils.set_random_seed(seed)
    source, target = (
        draw_source(TRAINING_COUNT, 2 * seed),
        draw_target(TRAINING_COUNT, 2 * seed + 1),
    )
    model = FlowMatchingModel(
        VelocityMLP(HIDDEN_SIZES),
        flow_layers=[],
        base_distribution=Empirical(source),
        coupling=coupling,
        seed=seed,
    )
    steps = EPOCH_COUNT * TRAINING_COUNT // BATCH_SIZE
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    model.compile(keras.optimizers.Adam(schedule))
    model.fit(target, batch_size=BATCH_SIZE, epochs=EPOCH_COUNT, verbose=0)
    return model


def transport(
    model: FlowMatchingModel, points: np.ndarray, solver: str = "rk4", step_count: int = 16
) -> np.ndarray:
    """Moves points of the source to the target, `[count, 2]`."""
    return follow(model, points, 0.0, 1.0, solver, step_count)


def follow(
    model: FlowMatchingModel,
    points: np.ndarray,
    start: float,
    stop: float,
    solver: str,
    step_count: int,
) -> np.ndarray:
    """Moves points with the flow from one time to another, `[count, 2]`."""
    velocity = model.continuous_flow.velocity

    def move(moment, x):
        return (velocity([x, ops.broadcast_to(moment, (len(points), 1))]),)

    (moved,) = solve(move, (ops.convert_to_tensor(points),), start, stop, solver, step_count)
    return ops.convert_to_numpy(moved)


# --- The report --------------------------------------------------------------------------------


def measure(models: dict[str, FlowMatchingModel], seed: int) -> dict[str, np.ndarray]:
    """Measures how well models transport points that they have not seen.

    Args:
        models: A model for each coupling.
        seed: The seed of the fresh points.

    Returns:
        By name, distances for each fresh sample, `[repeats, distances]`: for each coupling, one for
        each of `STEP_COUNTS` with Euler's method, one for 16 steps of RK4, and how far points went.
    """
    rows: list[dict[str, list[float]]] = []
    for repeat in range(REPEAT_COUNT):
        first = 1000 + 3 * (REPEAT_COUNT * seed + repeat)
        source = draw_source(TEST_COUNT, first)
        fresh, other = (draw_target(TEST_COUNT, first + offset) for offset in (1, 2))
        row = {
            "fresh": [measure_distance(fresh, other)],
            "identity": [measure_distance(source, other)],
        }
        for name, model in models.items():
            moved = transport(model, source)
            length = np.sqrt(((moved - source) ** 2).sum(axis=-1).mean())
            row[name] = [
                *(
                    measure_distance(transport(model, source, "euler", steps), other)
                    for steps in STEP_COUNTS
                ),
                measure_distance(moved, other),
                float(length),
            ]
            row[f"{name}, turned"] = [measure_distance(moved, turn(other))]
        rows.append(row)
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def print_table(results: list[dict[str, np.ndarray]]) -> None:
    """Prints means and standard deviations over all fresh samples and seeds."""

    def describe(name: str, index: int) -> str:
        values = np.concatenate([result[name] for result in results])[:, index]
        return f"{values.mean():.2f} ± {values.std():.2f}"

    print(f"\nWasserstein distance to fresh data, {TEST_COUNT} points, {len(results)} seeds")
    print(f"  {'two samples of the data':46}{describe('fresh', 0)}")
    for name in COUPLINGS:
        print(f"  {f'{name} coupling, 16 steps of RK4':46}{describe(name, -2)}")
        print(f"  {f'{name} coupling, one step of Euler':46}{describe(name, 0)}")
        print(f"  {f'{name} coupling, to data that are turned':46}{describe(f'{name}, turned', 0)}")
    print(f"  {'points that stay where they are':46}{describe('identity', 0)}")
    print("\nHow far points go, as a root mean square; the row above is the least that is possible")
    for name in COUPLINGS:
        print(f"  {f'{name} coupling':46}{describe(name, -1)}")


# --- The figure --------------------------------------------------------------------------------


def draw_paths(axes: plt.Axes, model: FlowMatchingModel, name: str) -> None:
    """Draws the paths of some points among the data."""
    points = draw_source(PATH_COUNT, 999)
    times = np.linspace(0.0, 1.0, 33)
    path = [points]
    for start, stop in itertools.pairwise(times):
        path.append(follow(model, path[-1], float(start), float(stop), "rk4", 1))
    axes.scatter(*draw_target(2000, 998).T, s=3, color="0.8", linewidths=0, rasterized=True)
    axes.plot(*np.stack(path, axis=-1).transpose(1, 2, 0), color=COUPLINGS[name], lw=0.7, alpha=0.7)
    axes.scatter(
        *path[0].T, s=9, color="black", linewidths=0, zorder=3, label="start, on two moons"
    )
    axes.scatter(
        *path[-1].T, s=12, facecolor="white", edgecolor="black", lw=0.6, zorder=3, label="end"
    )
    axes.set(title=f"Paths, {name} coupling", xlim=(-5.6, 5.6), ylim=(-5.6, 6.9), aspect="equal")
    axes.set(xticks=[-4, 0, 4], yticks=[-4, 0, 4])


def draw_distances(axes: plt.Axes, results: list[dict[str, np.ndarray]]) -> None:
    """Draws how the distance to fresh data falls with the number of steps."""
    for name, colour in COUPLINGS.items():
        values = np.array([result[name].mean(axis=0) for result in results])[:, : len(STEP_COUNTS)]
        axes.plot(STEP_COUNTS, values.mean(axis=0), "o-", color=colour, label=f"{name} coupling")
        axes.fill_between(
            STEP_COUNTS, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0
        )
    fresh = np.mean([result["fresh"] for result in results])
    axes.axhline(fresh, color="black", ls="--", lw=1.2, label="two samples of the data")
    axes.set(
        xscale="log",
        xlabel="steps of Euler's method",
        ylabel="Wasserstein distance to fresh data",
        title="Few steps",
        ylim=(0.0, None),
    )
    axes.set_xticks(STEP_COUNTS, [str(count) for count in STEP_COUNTS])
    axes.minorticks_off()
    axes.legend()


def draw_figure(
    models: dict[str, FlowMatchingModel], results: list[dict[str, np.ndarray]], path: Path
) -> None:
    """Draws paths of both models, and distances, into a file."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.3), layout="constrained")
    for ax, (name, model) in zip(axes, models.items(), strict=False):
        draw_paths(ax, model, name)
    axes[0].legend(loc="upper center", ncols=2, fontsize="small")
    draw_distances(axes[2], results)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- The whole example -------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("transport_figures"))
    parser.add_argument("--seeds", type=int, default=2, help="the number of seeds")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    """Trains flows with both couplings, measures them, and draws their paths."""
    arguments = parse_arguments()
    results, shown = [], {}
    for seed in range(arguments.seeds):
        models = {}
        for name in COUPLINGS:
            started = time.monotonic()
            models[name] = train(name, seed)
            print(f"Seed {seed}, {name} coupling: trained in {time.monotonic() - started:.0f} s")
        results.append(measure(models, seed))
        shown = shown or models
    print_table(results)
    draw_figure(shown, results, arguments.output / "transport.png")
    if arguments.docs:
        docs = Path(__file__).resolve().parents[1] / "docs" / "images"
        draw_figure(shown, results, docs / "transport.png")
    print(f"\nFigures are in {arguments.output}/")


if __name__ == "__main__":
    main()
