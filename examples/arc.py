"""The arc: the smallest example of disentangling.

A point has a position s on an arc, s ~ N(0, 0.5²). It is only observed in the plane, at (s, s²/2),
blurred by noise N(0, 0.1²) in both coordinates. A normalizing flow learns to bend the plane so that
the arc becomes a straight line: one latent coordinate is the position of a point, and the other
one, called the residual, is everything else. The flow is not told what these coordinates are. It
sees pairs of points whose positions have a correlation of 0.9, and is told this number.

As the data are so simple, the best possible result of any model can be computed, for comparison.

Run it with `python examples/arc.py`; it takes less than a minute on two cores.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib.pyplot as plt
import numpy as np
from scipy.special import ndtri

from gyoza.data import ContinuousPairs
from gyoza.modelling.conditioners import MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    DisentanglingFlowModel,
    Reflection,
)
from gyoza.modelling.losses import SupervisedFactorLoss
from gyoza.plotting import latent_scatter, training_curves, warped_grid

plt.switch_backend("Agg")  # draws into files and needs no display

POSITION_DEVIATION = 0.5
NOISE_DEVIATION = 0.1
CORRELATION = 0.9
"""The correlation of the positions in a pair. The residuals of a pair are independent."""

TRAINING_COUNT = 100_000
HELD_OUT_COUNT = 100_000
BLOCK_COUNT = 4
HIDDEN_SIZES = [32, 32]
BATCH_SIZE = 500
STEPS_PER_EXECUTION = 20
EPOCH_COUNT = 8
LEARNING_RATE = 5e-3

RESIDUAL, POSITION = 0, 1
"""The indices of the two factors among the latent coordinates: the residual comes first."""

PATH_COLOURS = ["#0072b2", "#d55e00", "#cc79a7", "#009e73"]


# --- The data ----------------------------------------------------------------------------------


def add_noise(positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Places points on the arc and blurs them.

    Args:
        positions: The positions s, `[count]`.
        rng: Source of the noise.

    Returns:
        Points in the plane, `[count, 2]`.
    """
    arc = np.stack([positions, positions**2 / 2], axis=-1)
    return (arc + rng.normal(0.0, NOISE_DEVIATION, arc.shape)).astype("float32")


def draw_points(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws training points, `[count, 2]`, and their positions, `[count]`."""
    positions = rng.normal(0.0, POSITION_DEVIATION, count)
    return add_noise(positions, rng), positions


def draw_pairs(
    count: int, rng: np.random.Generator
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Draws test pairs, whose positions have exactly the wanted correlation.

    Args:
        count: Number of pairs.
        rng: Source of the randomness.

    Returns:
        The pair of points, `[count, 2]` each, the correlations of the residual and the position
        for the loss, `[count, 2]`, and the positions of the first points, `[count]`.
    """
    positions_a, fresh = rng.normal(0.0, POSITION_DEVIATION, (2, count))
    positions_b = CORRELATION * positions_a + np.sqrt(1 - CORRELATION**2) * fresh
    correlations = np.tile(np.array([0.0, CORRELATION], "float32"), (count, 1))
    return (add_noise(positions_a, rng), add_noise(positions_b, rng)), correlations, positions_a


def measure_offset(points: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Measures how far points are from the arc, at a right angle to it: the true residual.

    Args:
        points: Points in the plane, `[count, 2]`.
        positions: Their positions, `[count]`.

    Returns:
        The offsets, positive on the inner side of the arc, `[count]`.
    """
    normals = np.stack([-positions, np.ones_like(positions)], axis=-1)
    noise = points - np.stack([positions, positions**2 / 2], axis=-1)
    return (noise * normals).sum(axis=-1) / np.linalg.norm(normals, axis=-1)


# --- How well any model can do -----------------------------------------------------------------


class Optimum(NamedTuple):
    """The smallest possible losses, in nats per pair."""

    bound: float
    gaussian: float


def compute_optimum() -> Optimum:
    r"""Computes the smallest possible loss, by summing probabilities on a grid.

    The loss is a negative log-likelihood without the constant 2 ln 2π, so no model comes below the
    entropy of the pairs less this constant: the bound.

    A flow cannot quite reach it. A position cannot be read exactly from a noisy point, so the
    positions read from the two points of a pair have a slightly lower correlation than the true
    ones: r instead of ρ = 0.9, which the loss assumes. For latent vectors that are exactly
    Gaussian, the expected loss follows from r and from the entropy H of single points:

        2 (H - ln 2π) + ½ ((1 - 2ρr + ρ²) / (1 - ρ²) + ln(1 - ρ²) - 1).

    Returns:
        The bound, and the loss of a flow whose latent space is exactly Gaussian.
    """
    position_step, point_step = 0.05, 0.06
    positions = np.arange(-2.75, 2.76, position_step)
    arc = np.stack([positions, positions**2 / 2], axis=-1)
    plane = np.meshgrid(np.arange(-3.0, 3.0, point_step), np.arange(-0.8, 4.0, point_step))
    points = np.stack(plane, axis=-1).reshape(-1, 2)

    # Probabilities p(point | position) of the cells of the grid, and p(position, position').
    squares = ((points[:, None] - arc) ** 2).sum(axis=-1)
    likelihood = np.exp(-0.5 * squares / NOISE_DEVIATION**2)
    likelihood /= likelihood.sum(axis=0)
    s, t = positions / POSITION_DEVIATION, positions[:, None] / POSITION_DEVIATION
    prior = np.exp(-0.5 * (s**2 - 2 * CORRELATION * s * t + t**2) / (1 - CORRELATION**2))
    prior /= prior.sum()

    joint = likelihood @ prior.sum(axis=0)
    is_likely = joint > 1e-10
    likelihood = likelihood[is_likely]
    pairs = likelihood @ prior @ likelihood.T
    singles = pairs.sum(axis=0)

    constant = 2 * np.log(2 * np.pi)
    cell_volume = 2 * np.log(point_step)
    entropy_of_pairs = -np.sum(pairs * np.log(pairs)) + 2 * cell_volume
    entropy_of_singles = -np.sum(singles * np.log(singles)) + cell_volume

    # The expected position of each point, mapped to a standard normal distribution.
    expected = likelihood @ (prior.sum(axis=0) * positions) / singles
    order = np.argsort(expected)
    scores = np.empty_like(expected)
    scores[order] = ndtri(np.cumsum(singles[order]) - singles[order] / 2)
    r = (scores @ pairs @ scores) / (singles @ scores**2)

    unexplained = 1 - CORRELATION**2
    mismatch = (1 - 2 * CORRELATION * r + CORRELATION**2) / unexplained + np.log(unexplained) - 1
    return Optimum(
        bound=float(entropy_of_pairs - constant),
        gaussian=float(2 * entropy_of_singles - constant + mismatch / 2),
    )


# --- The flow ----------------------------------------------------------------------------------


def create_model() -> DisentanglingFlowModel:
    """Builds the flow: blocks that scale and rotate the plane and then shear it along a curve.

    The conditioner of an additive coupling reads one coordinate and shifts the other one. Several
    such shears, in different directions, straighten the arc. A smooth activation suits it.
    """
    layers = []
    for _ in range(BLOCK_COUNT):
        layers += [
            ActivationNormalization(),
            Reflection(reflection_count=2),
            AdditiveCoupling(conditioner=MLP(HIDDEN_SIZES, activation="tanh")),
        ]
    layers += [ActivationNormalization(), Reflection(reflection_count=2)]
    return DisentanglingFlowModel(layers)


def train(
    model: DisentanglingFlowModel, points: np.ndarray, pairs: ContinuousPairs, held_out: tuple
) -> keras.callbacks.History:
    """Trains the flow with a learning rate that decays to zero, and tests it after every epoch.

    Args:
        model: The flow.
        points: Points whose mean and variance initialise the normalisation layers.
        pairs: The pairs to train with.
        held_out: Other pairs, and their correlations.

    Returns:
        Training and held-out losses per epoch.
    """
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCH_COUNT * len(pairs))
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=SupervisedFactorLoss(dimensions_per_factor=[1, 1]),
        steps_per_execution=STEPS_PER_EXECUTION,
        jit_compile=False,  # for a flow as small as this, XLA compiles longer than it saves
    )
    model.adapt(points[:10_000])
    return model.fit(
        pairs, epochs=EPOCH_COUNT, validation_data=held_out, validation_batch_size=10_000
    )


def measure_losses(model: DisentanglingFlowModel, held_out: tuple) -> np.ndarray:
    """Computes the loss of every held-out pair, for the mean and the standard error."""
    (a, b), correlations = held_out
    loss = SupervisedFactorLoss(dimensions_per_factor=[1, 1], reduction=None)
    return keras.ops.convert_to_numpy(loss(correlations, model((a, b))))


def encode(model: DisentanglingFlowModel, points: np.ndarray) -> np.ndarray:
    """Maps points to latent space."""
    latent, _ = model(points)
    return keras.ops.convert_to_numpy(latent)


def decode(model: DisentanglingFlowModel, latent: np.ndarray) -> np.ndarray:
    """Maps latent vectors back to points in the plane."""
    return keras.ops.convert_to_numpy(model.invert(latent.astype("float32")))


# --- The report --------------------------------------------------------------------------------


def print_losses(optimum: Optimum, losses: np.ndarray) -> None:
    """Prints the loss of the flow beside the smallest possible losses."""
    error = losses.std() / np.sqrt(len(losses))
    print("\nLoss, in nats per pair")
    print(f"  entropy bound               {optimum.bound:.3f}")
    print(f"  exactly Gaussian latent     {optimum.gaussian:.3f}")
    print(f"  this flow, held-out pairs   {losses.mean():.3f} ± {error:.3f}  ({len(losses)} pairs)")


def print_correlations(latent: np.ndarray, positions: np.ndarray, offsets: np.ndarray) -> None:
    """Prints what each latent coordinate corresponds to. The sign of a coordinate is arbitrary.

    Args:
        latent: Latent vectors, `[count, 2]`.
        positions: True positions of their points, `[count]`.
        offsets: True residuals of their points, `[count]`.
    """
    table = np.corrcoef([latent[:, RESIDUAL], latent[:, POSITION], positions, offsets])[:2, 2:]
    print("\nCorrelation of latent coordinates with the truth")
    print(f"  {'':20}{'position s':>12}{'offset from arc':>18}")
    for name, row in zip(("residual latent", "position latent"), table, strict=True):
        print(f"  {name:20}{row[0]:>+12.3f}{row[1]:>+18.3f}")


# --- The figures -------------------------------------------------------------------------------


def draw_training(axes: plt.Axes, history: keras.callbacks.History, optimum: Optimum) -> None:
    """Draws the losses of all epochs, and the two optima below them."""
    optima = {"exactly Gaussian latent": optimum.gaussian, "entropy bound": optimum.bound}
    training_curves(history, optima, ax=axes)
    top = max(*history.history["val_loss"], optimum.bound + 0.12)
    axes.set(
        ylabel="loss in nats per pair",
        title="Training",
        ylim=(optimum.bound - 0.01, top + 0.01),
    )


def draw_latent_space(axes: plt.Axes, latent: np.ndarray, positions: np.ndarray) -> None:
    """Draws latent vectors, coloured by position, and a regular grid.

    Args:
        axes: The axes to draw on.
        latent: Latent vectors, `[count, 2]`.
        positions: True positions, `[count]`.
    """
    scatter(axes, latent, positions, dimensions=(POSITION, RESIDUAL))
    warped_grid(lambda points: points, ax=axes)
    axes.set(
        xlabel="position factor",
        ylabel="residual factor",
        title="Latent space",
        xlim=(-3.6, 3.6),
        ylim=(-3.6, 3.6),
        aspect="equal",
    )


def draw_input_space(
    axes: plt.Axes, model: DisentanglingFlowModel, points: np.ndarray, positions: np.ndarray
) -> None:
    """Draws points, coloured by position, and the grid of latent space mapped to the plane.

    Args:
        axes: The axes to draw on.
        model: The flow.
        points: Points in the plane, `[count, 2]`.
        positions: Their positions, `[count]`.
    """
    scatter(axes, points, positions)
    warped_grid(
        lambda lines: decode(model, lines[:, np.argsort([POSITION, RESIDUAL])]),
        labels=("position changes", "residual changes"),
        ax=axes,
    )
    label_plane(axes, "Input space")
    axes.legend(loc="upper center", framealpha=0.95)


def draw_paths(
    axes: plt.Axes, model: DisentanglingFlowModel, points: np.ndarray, background: np.ndarray
) -> None:
    """Draws the paths of points when only their latent position changes.

    Args:
        axes: The axes to draw on.
        model: The flow.
        points: The points to be moved, `[count, 2]`.
        background: Other points, which show where the data are.
    """
    axes.scatter(*background.T, s=4, color="0.8", linewidths=0, rasterized=True)
    for point, latent, colour in zip(points, encode(model, points), PATH_COLOURS, strict=True):
        moved = np.tile(latent, (201, 1))
        moved[:, POSITION] = np.linspace(-2.5, 2.5, len(moved))
        axes.plot(*decode(model, moved).T, color=colour, lw=1.8)
        axes.plot(*point, "o", color=colour, markeredgecolor="black", markersize=8)
    arc = np.linspace(-2.5, 2.5, 201) * POSITION_DEVIATION
    axes.plot(arc, arc**2 / 2, color="black", ls="--", lw=1.2, label="the arc without noise")
    axes.plot([], [], "o", color="white", markeredgecolor="black", label="point to be moved")
    axes.plot([], [], color="0.35", lw=1.8, label="position factor from −2.5 to 2.5")
    label_plane(axes, "Moving the position factor")
    axes.legend(loc="upper center", framealpha=0.95)


def scatter(axes: plt.Axes, points: np.ndarray, positions: np.ndarray, **kwargs) -> None:
    """Scatters points, coloured by position."""
    limit = 2.5 * POSITION_DEVIATION
    latent_scatter(
        points, positions, ax=axes, show_key=False, vmin=-limit, vmax=limit, s=6, **kwargs
    )


def draw_key(axes: plt.Axes, beside: plt.Axes | np.ndarray) -> None:
    """Draws the colour bar of the points on some axes, beside these or others."""
    label = "true position s"
    points = axes.collections[0]
    axes.figure.colorbar(points, ax=beside, label=label, extend="both", shrink=0.9)


def label_plane(axes: plt.Axes, title: str) -> None:
    """Sets the title, the labels and the limits for a figure of the data's plane."""
    axes.set(
        xlabel="first coordinate",
        ylabel="second coordinate",
        title=title,
        xlim=(-1.9, 1.9),
        ylim=(-0.5, 2.3),
        aspect="equal",
    )


def save_figure(figure: plt.Figure, path: Path) -> None:
    """Writes a figure to a file and closes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def choose_points(latent: np.ndarray) -> np.ndarray:
    """Finds points at different places of latent space, one for each colour of `draw_paths`.

    Args:
        latent: Latent vectors, `[count, 2]`.

    Returns:
        The points' indices.
    """
    wanted = np.empty((len(PATH_COLOURS), 2))
    wanted[:, RESIDUAL] = [-2.0, -0.7, 0.7, 2.0]
    wanted[:, POSITION] = [-1.5, 0.7, -0.5, 1.4]
    return np.argmin(((latent[:, None] - wanted) ** 2).sum(axis=-1), axis=0)


def draw_figures(
    model: DisentanglingFlowModel,
    history: keras.callbacks.History,
    optimum: Optimum,
    points: np.ndarray,
    positions: np.ndarray,
    output: Path,
    docs: Path | None,
) -> None:
    """Draws all figures.

    Args:
        model: The flow.
        history: What `train` returned.
        optimum: The smallest possible losses.
        points: Points in the plane, `[count, 2]`.
        positions: Their positions, `[count]`.
        output: The folder to draw into.
        docs: A further file, for a figure of everything, or `None`.
    """
    latent = encode(model, points)
    chosen = points[choose_points(latent)]

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    draw_training(axes, history, optimum)
    save_figure(figure, output / "training.png")

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    draw_input_space(axes[0], model, points, positions)
    draw_latent_space(axes[1], latent, positions)
    draw_key(axes[0], beside=axes)
    save_figure(figure, output / "spaces.png")

    figure, axes = plt.subplots(figsize=(6, 4.8), layout="constrained")
    draw_paths(axes, model, chosen, points)
    save_figure(figure, output / "paths.png")

    if docs is not None:
        figure, axes = plt.subplots(1, 3, figsize=(14, 3.9), layout="constrained")
        draw_input_space(axes[0], model, points, positions)
        draw_latent_space(axes[1], latent, positions)
        draw_key(axes[0], beside=axes[1])
        draw_paths(axes[2], model, chosen, points)
        save_figure(figure, docs)


# --- The whole example -------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("arc_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the seed")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    """Draws data, trains a flow, and shows what it has learnt."""
    arguments = parse_arguments()
    keras.utils.set_random_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)

    # Training pairs are made as they would be from real data, from points with known positions: in
    # every epoch, each point is given a new partner, at a position that correlates with its own.
    # With so many points, there is always one at almost exactly the right position.
    points, positions = draw_points(TRAINING_COUNT, rng)
    pairs = ContinuousPairs(
        points, positions, CORRELATION, batch_size=BATCH_SIZE, seed=arguments.seed
    )
    print(f"Correlation of positions in training pairs: {pairs.realised_correlation.item():.3f}")

    # Test pairs are drawn from the distribution itself.
    (a, b), correlations, positions_a = draw_pairs(HELD_OUT_COUNT, rng)
    held_out = ((a, b), correlations)

    optimum = compute_optimum()
    model = create_model()
    history = train(model, points, pairs, held_out)

    print_losses(optimum, measure_losses(model, held_out))
    print_correlations(encode(model, a), positions_a, measure_offset(a, positions_a))

    shown = slice(3000)
    docs = Path(__file__).resolve().parents[1] / "docs" / "images" / "arc.png"
    draw_figures(
        model,
        history,
        optimum,
        a[shown],
        positions_a[shown],
        arguments.output,
        docs if arguments.docs else None,
    )
    print(f"\nFigures are in {arguments.output}/")


if __name__ == "__main__":
    main()
