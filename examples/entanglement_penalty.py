"""See what a penalty on entangled latent variables does to pictures of two independent factors.

A heart moves sideways (x) and up and down (y), independently, and a variational autoencoder with
three latent dimensions learns to draw it. In its loss, a penalty on the mean absolute product of
each two latent variables is to bring their covariance down, and with it their entanglement.

Without the penalty, pictures lie on a sheet that bends through all three dimensions, turned by
chance. With it, covariances get smaller. But it is least where all variables but one are zero, not
where each stands for one factor: for two independent uniform factors with a variance of 1, it is
3/4, and for their square turned by 45°, with the corners on the axes, only 1/2. So a strong penalty
pulls the sheet into a star, whose arms are the corners. It may switch one dimension off; each of
the other two then stands for x as much as for y, with an absolute correlation of 0.7. With another
seed, two arms that face one another take a dimension each. The penalty suits data of which one
factor at a time differs from zero, rather than pictures like these.

    python examples/entanglement_penalty.py --output figures

References:
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

import keras
import matplotlib
import numpy as np
from keras import layers, ops
from scipy.special import entr

from gyoza.data import Sprites
from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.modelling.losses import bernoulli_log_likelihood, entanglement
from gyoza.modelling.metrics import Entanglement, mean_correlation_coefficient
from gyoza.plotting import heat_map, latent_scatter

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

IMAGE_SIZE = 32
PIXEL_COUNT = IMAGE_SIZE**2
DIMENSION_COUNT = 3
DEVIATION = 0.1  # of each latent variable around its mean, the same for all pictures
KL_WEIGHT = 1e-3  # for a reconstruction error that is a mean over pixels, as the following
ENTANGLEMENT_WEIGHTS = 0.0, 1e-4, 1e-2, 1e-1
TRAINING_COUNT, TEST_COUNT = 4500, 500
BATCH_SIZE = 50
EPOCH_COUNT = 30


def draw_pictures(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws pictures and their factors x and y."""
    sprites = Sprites(IMAGE_SIZE, ["heart"], (0.2, 0.2), (0.0, 0.0), positions=(0.375, 0.625))
    images, factors = sprites.sample(count, seed=seed)
    return images, factors[:, 3:]


def train(images: np.ndarray, entanglement_weight: float, seed: int) -> VariationalAutoencoder:
    """Trains an autoencoder, from the same initial weights and samples for the same seed."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 1])
    hidden = layers.Dense(256, "relu")(layers.Flatten()(inputs))
    means = layers.Dense(DIMENSION_COUNT)(layers.Dense(128, "relu")(hidden))
    log_variances = ops.full_like(means, 2 * math.log(DEVIATION))
    decoder = [layers.Dense(128, "relu"), layers.Dense(256, "relu"), layers.Dense(PIXEL_COUNT)]
    model = VariationalAutoencoder(
        keras.Model(inputs, [means, log_variances]),
        keras.Sequential([*decoder, layers.Reshape([IMAGE_SIZE, IMAGE_SIZE, 1])]),
        # The autoencoder adds pixels and dimensions up, where these weights are for means of them.
        kl_weight=2 * KL_WEIGHT * PIXEL_COUNT / DIMENSION_COUNT,
        entanglement_weight=entanglement_weight * PIXEL_COUNT,
        seed=seed,
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        2e-3, EPOCH_COUNT * -(-len(images) // BATCH_SIZE)
    )
    model.compile(keras.optimizers.Adam(schedule), jit_compile=False, steps_per_execution=10)
    model.fit(images, batch_size=BATCH_SIZE, epochs=EPOCH_COUNT, verbose=0)
    return model


def encode(model: VariationalAutoencoder, images: np.ndarray) -> np.ndarray:
    """Gives latent vectors, the dimension with the largest variance first."""
    means = ops.convert_to_numpy(model.encode(images))
    return means[:, np.argsort(-means.var(axis=0))]


def average_off_diagonal(matrix: np.ndarray) -> float:
    return np.abs(matrix[np.triu_indices(len(matrix), 1)]).mean()


def evaluate(model: VariationalAutoencoder, images, means, factors) -> list[float]:
    """Computes a row of the table."""
    logits = model.decoder.predict(model.encode(images), verbose=0)
    least = np.sum(entr(images) + entr(1 - images), axis=(1, 2, 3))  # of cross-entropies
    errors = -ops.convert_to_numpy(bernoulli_log_likelihood(images, logits)) - least
    active = means[:, means.var(axis=0) > 0.01]
    return [
        errors.mean(),
        model.evaluate(images, verbose=0, return_dict=True)["kl"],
        float(Entanglement()(None, means)),
        average_off_diagonal(np.cov(means, rowvar=False)),
        average_off_diagonal(np.corrcoef(active, rowvar=False)),
        active.shape[1],
        mean_correlation_coefficient(means, factors),
    ]


def print_table(rows: dict[float, list[float]]) -> None:
    titles = "error", "KL", "penalty", "|cov|", "|corr|", "active", "MCC"
    print(f"{'Weight':>8}" + "".join(f"{title:>9}" for title in titles))
    for weight, row in rows.items():
        *values, active, mcc = row
        cells = "".join(f"{value:9.3f}" for value in values)
        print(f"{weight:8g}{cells}{active:9}{mcc:9.3f}")
    least = DIMENSION_COUNT * (0.5 * (DEVIATION**2 - 1) - math.log(DEVIATION))
    print(
        "\nerror: cross-entropy of a picture above the least possible, in nats"
        f"\nKL: in nats, at least {least:.3f} where variances are not learned"
        "\npenalty: mean absolute product of two latent variables"
        "\n|cov|, |corr|: mean absolute covariance, and correlation of active ones"
        "\nactive: dimensions with a variance above 0.01"
        "\nMCC: mean absolute correlation of x and y with a dimension of their own"
    )


def turn(points: np.ndarray) -> np.ndarray:
    """Turns points of the plane by 45°."""
    return points @ np.array([[1, 1], [-1, 1]], points.dtype) / np.sqrt(2)


def print_costs(points: dict[str, np.ndarray]) -> None:
    """Prints what the orientation of points in the plane does to their penalty."""
    print(f"\n{'Penalty at variance 1':30}{'as is':>9}{'by 45°':>9}")
    for name, x in points.items():
        x = (x - x.mean(axis=0)) / x.std()
        costs = [float(ops.mean(entanglement(version))) for version in (x, turn(x))]
        print(f"{name:30}" + "".join(f"{cost:9.3f}" for cost in costs))


def plot(codes: dict[float, np.ndarray], factors: np.ndarray):
    """Draws latent vectors coloured by x and by y, and their covariance."""
    figure, axes = plt.subplots(len(codes), 3, figsize=(8, 5.4), dpi=100, layout="constrained")
    for row, (weight, means) in zip(axes, codes.items(), strict=True):
        case = f"weight {weight:g}" if weight else "no penalty"
        for ax, name, factor in zip(row, "xy", factors.T, strict=False):
            latent_scatter(means, factor, show_key=False, s=7, ax=ax)
            ax.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
            ax.set_title(f"{case}, coloured by {name}")
        covariance = np.cov(means, rowvar=False)
        heat_map(covariance, ax=row[2], cmap="RdBu_r", vmin=-2, vmax=2)
        row[2].set(xlabel="dimension", ylabel="dimension", title=f"{case}, covariance")
    return figure


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("entanglement_penalty_figures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--docs", action="store_true", help="draw into docs/images of this repository"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    images, _ = draw_pictures(TRAINING_COUNT, arguments.seed)
    test_images, factors = draw_pictures(TEST_COUNT, arguments.seed + 1)
    codes, rows = {}, {}
    for weight in ENTANGLEMENT_WEIGHTS:
        model = train(images, weight, arguments.seed)
        codes[weight] = encode(model, test_images)
        rows[weight] = evaluate(model, test_images, codes[weight], factors)
    print_table(rows)
    strongest = ENTANGLEMENT_WEIGHTS[-1]
    name = f"two dimensions at weight {strongest:g}"
    print_costs({"x and y themselves": factors, name: codes[strongest][:, :2]})

    arguments.output.mkdir(parents=True, exist_ok=True)
    figure = plot({weight: codes[weight] for weight in (0.0, strongest)}, factors)
    figure.savefig(arguments.output / "entanglement_penalty.png")
    if arguments.docs:
        docs_images = Path(__file__).resolve().parents[1] / "docs" / "images"
        figure.savefig(docs_images / "entanglement_penalty.png")
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
