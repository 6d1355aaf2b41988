"""See what a penalty on entangled latent variables does to pictures with two known factors.

A picture shows the closed curve with radius r = a + b cos 5θ at the angle θ: a flower whose size is
a, with petals of length b. A convolutional variational autoencoder with three latent dimensions and
constant variances learns to draw such pictures. There are two experiments:

- Pictures with (a, b) in a disc are left out of training, and those with long petals weigh less.
  How well does the autoencoder draw what it has never seen?
- All pictures are used, with a penalty on the mean absolute product of each pair of latent
  variables, which should reduce their covariance, and with it their entanglement.

The data, the losses and their weights are those of a series of articles about zero-shot learning,
where pictures have 256 × 256 pixels and networks are larger. This version takes a few minutes on
two cores.

    python examples/entanglement_penalty.py --output figures

References:
    - Lin, M. (2021). "Zero-shot learning with VAEs", parts 1 to 3.
      `<https://m-lin-dm.github.io/VAE_zeroshot_3/>`_
    - Higgins, I. et al. (2016). "Early visual concept learning with unsupervised deep learning."
      `arXiv:1606.05579 <https://arxiv.org/abs/1606.05579>`_
    - Kumar, A., Sattigeri, P. & Balakrishnan, A. (2018). "Variational inference of disentangled
      latent concepts from unlabeled observations."
      `arXiv:1711.00848 <https://arxiv.org/abs/1711.00848>`_
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib
import numpy as np
from keras import layers, ops
from scipy.special import entr

from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.modelling.losses import bernoulli_log_likelihood, entanglement
from gyoza.modelling.metrics import Entanglement, mean_correlation_coefficient
from gyoza.plotting import latent_scatter

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

FACTOR_NAMES = "a", "b"
LOWEST, HIGHEST = np.array([0.5, 0.0]), np.array([2.0, 2.0])  # of a and b
HOLE_CENTRE, HOLE_RADIUS = np.array([1.25, 1.0]), 0.3
IMAGE_SIZE = 32
PIXEL_COUNT = IMAGE_SIZE**2
PIXEL_WIDTH = 8.4 / IMAGE_SIZE  # the largest flower has a diameter of 8
LINE_WIDTH = 1.5 * PIXEL_WIDTH

DIMENSION_COUNT = 3
DEVIATION = 0.1  # of each latent variable around its mean, the same for all pictures
KL_WEIGHT = 1e-3  # for a reconstruction error that is a mean over pixels, as are those below
TRAINING_COUNT, TEST_COUNT = 4500, 1000
TRANSECT_COUNT = 15
BATCH_SIZE = 50
EPOCH_COUNT = 10
LEARNING_RATE = 3e-3


class Experiment(NamedTuple):
    """The settings that a model is trained with."""

    is_punctured: bool
    is_weighted: bool
    entanglement_weight: float


EXPERIMENTS = {
    "punctured, weighted": Experiment(True, True, 0.0),
    "punctured": Experiment(True, False, 0.0),
    "full": Experiment(False, False, 0.0),
    "full, penalty 1e-4": Experiment(False, False, 1e-4),
    "full, penalty 1e-1": Experiment(False, False, 1e-1),
}
FIGURE_NAMES = "punctured, weighted", "full, penalty 1e-4", "full, penalty 1e-1"


# --- The data ----------------------------------------------------------------------------------


def fold(angles: np.ndarray) -> np.ndarray:
    """Maps angles to the half petal from 0 to π / 5, of which a flower has ten copies."""
    return np.abs((angles + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)


def draw_pictures(factors: np.ndarray) -> np.ndarray:
    """Draws flowers in white on black.

    The point of a flower that is nearest to a pixel is in the same copy of the half petal.

    Args:
        factors: a and b, `[count, 2]`.

    Returns:
        Pictures with values from 0 to 1, `[count, IMAGE_SIZE, IMAGE_SIZE, 1]`.
    """
    ticks = (np.arange(IMAGE_SIZE) - (IMAGE_SIZE - 1) / 2) * PIXEL_WIDTH
    pixels = (ticks - 1j * ticks[:, None]).reshape(-1, 1)
    pixels = np.abs(pixels) * np.exp(1j * fold(np.angle(pixels)))
    angles = np.linspace(0, np.pi / 5, 60)
    pictures = []
    for a, b in factors:
        radii = a + b * np.cos(5 * angles)
        # A negative radius is a positive one on the opposite side.
        curve = np.abs(radii) * np.exp(1j * fold(angles + np.pi * (radii < 0)))
        distances = np.abs(pixels - curve).min(axis=1)
        pictures.append(np.clip((LINE_WIDTH / 2 - distances) / PIXEL_WIDTH + 0.5, 0, 1))
    return np.array(pictures, "float32").reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1)


def measure_distance(factors: np.ndarray) -> np.ndarray:
    """Measures how far factors are from the centre of the hole."""
    return np.linalg.norm(factors - HOLE_CENTRE, axis=1)


def create_transect(factor: int) -> np.ndarray:
    """Creates factors along a line through the centre of the hole, where one factor changes."""
    factors = np.tile(HOLE_CENTRE, (TRANSECT_COUNT, 1))
    factors[:, factor] = np.linspace(LOWEST[factor], HIGHEST[factor], TRANSECT_COUNT)
    return factors


# --- The model ---------------------------------------------------------------------------------


def create_model(entanglement_weight: float, seed: int) -> VariationalAutoencoder:
    """Creates an autoencoder with constant variances; the seed determines its weights."""
    keras.utils.set_random_seed(seed)
    inputs = hidden = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 1])
    for filter_count in (16, 32, 32):
        hidden = layers.Conv2D(filter_count, 3, padding="same", activation="relu")(hidden)
        hidden = layers.BatchNormalization(momentum=0.9)(hidden)
        hidden = layers.MaxPooling2D()(hidden)
    means = layers.Dense(DIMENSION_COUNT)(layers.Flatten()(hidden))
    log_variances = ops.full_like(means, 2 * math.log(DEVIATION))

    corner = IMAGE_SIZE // 4
    decoder = keras.Sequential(
        [layers.Dense(16 * corner**2, "relu", use_bias=False), layers.Reshape([corner, corner, 16])]
    )
    for filter_count in (32, 16):
        decoder.add(layers.UpSampling2D())
        decoder.add(layers.Conv2DTranspose(filter_count, 3, padding="same", activation="relu"))
        decoder.add(layers.BatchNormalization(momentum=0.9))
    decoder.add(layers.Conv2DTranspose(1, 1))
    return VariationalAutoencoder(
        keras.Model(inputs, [means, log_variances]),
        decoder,
        # The autoencoder sums over pixels and dimensions, whereas these weights are for means.
        kl_weight=2 * KL_WEIGHT * PIXEL_COUNT / DIMENSION_COUNT,
        entanglement_weight=entanglement_weight * PIXEL_COUNT,
        seed=seed,
    )


def train(
    experiment: Experiment, images: np.ndarray, factors: np.ndarray, seed: int
) -> VariationalAutoencoder:
    """Trains an autoencoder with the settings of an experiment."""
    # The longer the petals, the less a picture weighs.
    weights = HIGHEST[1] - factors[:, 1] if experiment.is_weighted else np.ones(len(factors))
    if experiment.is_punctured:
        is_used = measure_distance(factors) > HOLE_RADIUS
        images, weights = images[is_used], weights[is_used]
    model = create_model(experiment.entanglement_weight, seed)
    step_count = EPOCH_COUNT * -(-len(images) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, step_count)
    model.compile(keras.optimizers.Adam(schedule), jit_compile=False, steps_per_execution=10)
    model.fit(images, sample_weight=weights, batch_size=BATCH_SIZE, epochs=EPOCH_COUNT, verbose=0)
    return model


def encode(model: VariationalAutoencoder, images: np.ndarray) -> np.ndarray:
    """Returns latent vectors, the dimension with the largest variance first."""
    means = ops.convert_to_numpy(model.encode(images))
    return means[:, np.argsort(-means.var(axis=0))]


def measure_errors(model: VariationalAutoencoder, images: np.ndarray) -> np.ndarray:
    """Measures the cross-entropy of each picture above the smallest possible, in nats."""
    logits = model.decoder.predict(model.encode(images), verbose=0)
    least = np.sum(entr(images) + entr(1 - images), axis=(1, 2, 3))
    return -ops.convert_to_numpy(bernoulli_log_likelihood(images, logits)) - least


# --- The report --------------------------------------------------------------------------------


def evaluate(
    model: VariationalAutoencoder, images: np.ndarray, means: np.ndarray, factors: np.ndarray
) -> list[float]:
    """Computes a row of the table."""
    errors = measure_errors(model, images)
    distances = measure_distance(factors)
    is_near = (distances > HOLE_RADIUS) & (distances <= 2 * HOLE_RADIUS)
    covariance = np.cov(means, rowvar=False)
    return [
        errors[distances <= HOLE_RADIUS].mean(),
        errors[is_near].mean(),
        errors[factors[:, 1] <= 0.5].mean(),
        errors.mean(),
        float(Entanglement()(None, means)),
        np.abs(covariance[np.triu_indices(DIMENSION_COUNT, 1)]).mean(),
        mean_correlation_coefficient(means, factors),
    ]


def print_table(rows: dict[str, list[float]]) -> None:
    titles = "hole", "ring", "b ≤ 0.5", "all", "penalty", "|cov|", "MCC"
    print(f"{'Model':20}" + "".join(f"{title:>9}" for title in titles))
    for name, row in rows.items():
        print(f"{name:20}" + "".join(f"{value:9.3f}" for value in row))
    print(
        "\nhole, ring, b ≤ 0.5, all: cross-entropy of pictures in the hole, around it, with short"
        "\n  petals, and of all, above the smallest possible, in nats"
        "\npenalty: mean absolute product of two latent variables"
        "\n|cov|: mean absolute covariance of two latent variables"
        "\nMCC: mean absolute correlation of a and b with a dimension of their own"
    )


def print_costs(factors: np.ndarray) -> None:
    """Prints how the penalty depends on the orientation of points in the plane."""
    points = (factors - factors.mean(axis=0)) / factors.std(axis=0)
    rotated = points @ np.array([[1, 1], [-1, 1]]) / math.sqrt(2)
    costs = [float(ops.mean(entanglement(version))) for version in (points, rotated)]
    print(f"\nPenalty of a and b, at variance 1: {costs[0]:.3f}; rotated by 45°: {costs[1]:.3f}")


# --- The figures -------------------------------------------------------------------------------


def draw_embeddings(codes: dict[str, np.ndarray], factors: np.ndarray) -> plt.Figure:
    """Draws latent vectors of the kind of pictures used in training, coloured by a and by b."""
    figure, axes = plt.subplots(
        2, len(codes), figsize=(9, 6.6), dpi=80, subplot_kw={"projection": "3d"}
    )
    figure.subplots_adjust(0.01, 0.06, 0.95, 0.93, wspace=0.18, hspace=0.3)
    for column, (name, means) in zip(axes.T, codes.items(), strict=True):
        is_left_out = EXPERIMENTS[name].is_punctured & (measure_distance(factors) <= HOLE_RADIUS)
        points, values = means[~is_left_out], factors[~is_left_out]
        for ax, factor_name, factor in zip(column, FACTOR_NAMES, values.T, strict=True):
            latent_scatter(points, factor, (0, 1, 2), show_key=False, s=4, ax=ax)
            ax.set_aspect("equal")
            ax.set_title(f"{name}\ncoloured by {factor_name}", size=10)
            ax.tick_params(labelsize=7, pad=0)
            ax.locator_params(nbins=5)
            for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
                axis.label.set_size(8)
                axis.labelpad = -2
    return figure


def draw_transects(models: dict[str, VariationalAutoencoder]) -> plt.Figure:
    """Draws pictures along lines through the hole, their reconstructions, and the errors."""
    figure, axes = plt.subplots(
        4, 1, figsize=(9, 6.5), dpi=80, height_ratios=[3, 2, 3, 2], layout="constrained"
    )
    for factor, (strip, curves) in enumerate(axes.reshape(2, 2)):
        factors = create_transect(factor)
        images = draw_pictures(factors)
        rows = [images]
        for name, model in models.items():
            rows.append(ops.convert_to_numpy(model.decode(model.encode(images))))
            curves.plot(measure_errors(model, images), "o-", label=name)
        extent = (-0.5, TRANSECT_COUNT - 0.5, 0, len(rows))
        strip.imshow(
            np.block([[image[..., 0] for image in row] for row in rows]),
            cmap="gray",
            aspect="auto",
            extent=extent,
        )
        strip.set_xticks([])
        strip.set_yticks(np.arange(len(rows)) + 0.5, ["picture", *models][::-1])
        curves.set_xticks(
            np.arange(TRANSECT_COUNT), [f"{value:.2f}" for value in factors[:, factor]]
        )
        curves.set(xlabel=FACTOR_NAMES[factor], ylabel="error in nats", ylim=0, xlim=extent[:2])
        curves.legend()
        inside = np.flatnonzero(measure_distance(factors) <= HOLE_RADIUS)
        curves.axvspan(inside[0] - 0.5, inside[-1] + 0.5, color="0.9")
        for edge in (inside[0] - 0.5, inside[-1] + 0.5):
            strip.axvline(edge, color="#ffa90e", lw=2)
    return figure


# --- The whole example -------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("entanglement_penalty_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the seed")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    rng = np.random.default_rng(arguments.seed)
    factors = rng.uniform(LOWEST, HIGHEST, (TRAINING_COUNT + TEST_COUNT, 2))
    images = draw_pictures(factors)
    test_images, test_factors = images[TRAINING_COUNT:], factors[TRAINING_COUNT:]
    print(f"pictures ({time.perf_counter() - start:.0f} s)", flush=True)
    models, codes, rows = {}, {}, {}
    for name, experiment in EXPERIMENTS.items():
        model = train(experiment, images[:TRAINING_COUNT], factors[:TRAINING_COUNT], arguments.seed)
        models[name] = model
        codes[name] = encode(model, test_images)
        rows[name] = evaluate(model, test_images, codes[name], test_factors)
        print(f"{name} ({time.perf_counter() - start:.0f} s)", flush=True)
    print_table(rows)
    print_costs(test_factors)

    figures = {
        "entanglement_penalty.png": draw_embeddings(
            {name: codes[name] for name in FIGURE_NAMES}, test_factors
        ),
        "transects.png": draw_transects({name: models[name] for name in ("punctured", "full")}),
    }
    folders = [arguments.output]
    if arguments.docs:
        folders.append(Path(__file__).resolve().parents[1] / "docs" / "images")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / name)
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
