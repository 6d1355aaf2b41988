"""Disentangle pictures of a sprite by what is known about it: scale, orientation and position.

An autoencoder is trained on small pictures of an ellipse. Its codes contain all four factors, but
none of them in a dimension of its own. A flow is then trained on pairs of codes that are alike in
one factor, and learns an invertible map to one dimension for each factor, and a residual. It knows
the factors only from labels with small errors, like those of measurements.

The results are measured on pictures that no model has seen: correlations of pairs compared with
those requested, what can be read from each block, what moves in the picture when one block does,
and three scores of disentanglement, before and after.

    python examples/sprites.py --output figures

References:
    - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation network
      for explaining latent representations." `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from __future__ import annotations

import argparse
import functools
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers

from gyoza import applications, interpretation
from gyoza.data import ContinuousPairs, Sprites
from gyoza.modelling import losses, metrics
from gyoza.plotting import correlation_heat_map, leakage_heat_map, traversal_strips

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

FACTORS = Sprites.names[1:]
IMAGE_SIZE = 32
CODE_SIZE = 16
SIZES = {"residual": CODE_SIZE - len(FACTORS), **dict.fromkeys(FACTORS, 1)}
CODE_NOISE = 0.1  # deviation of the noise on codes; that of codes is 1
LABEL_NOISE = 0.15  # deviation of the errors of labels, relative to that of the factor
CORRELATION = 0.9  # of two pictures that are alike in a factor
TRAIN_COUNT, TEST_COUNT = 20_000, 6_000
EPOCH_COUNT = 10
FLOW_EPOCH_COUNT = 40  # of as many pairs as there are codes, a quarter for each factor
BATCH_SIZE = 128


def prepare(model: keras.Model, loss, step_count: int) -> None:
    """Compiles a model with a learning rate that decays to zero within `step_count` steps."""
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, step_count)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=5.0)
    optimizer.build(model.trainable_variables)  # or the first step would be traced twice
    # On a CPU, compiling for XLA takes longer than it saves in trainings as short as these.
    model.compile(optimizer, loss=loss, jit_compile=False)


def train_autoencoder(images: np.ndarray) -> tuple[keras.Model, keras.Model]:
    """Trains an encoder and its decoder. Noise on codes makes them fill the available space."""
    style = {"kernel_size": 4, "strides": 2, "padding": "same", "activation": "relu"}
    encoder = [
        keras.Input([IMAGE_SIZE, IMAGE_SIZE, 1]),
        layers.Conv2D(16, **style),
        layers.Conv2D(32, **style),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dense(CODE_SIZE),
        layers.BatchNormalization(center=False, scale=False, momentum=0.9),
    ]
    decoder = [
        keras.Input([CODE_SIZE]),
        layers.Dense(256, activation="relu"),
        layers.Dense(8 * 8 * 32, activation="relu"),
        layers.Reshape([8, 8, 32]),
        layers.Conv2DTranspose(16, **style),
        layers.Conv2DTranspose(1, **style | {"activation": "sigmoid"}),
    ]
    encoder, decoder = keras.Sequential(encoder), keras.Sequential(decoder)
    autoencoder = keras.Sequential([encoder, layers.GaussianNoise(CODE_NOISE), decoder])
    step_count = EPOCH_COUNT * -(-len(images) // BATCH_SIZE)
    prepare(autoencoder, "binary_crossentropy", step_count)
    autoencoder.fit(images, images, BATCH_SIZE, EPOCH_COUNT, verbose=0)
    return encoder, decoder


def train_flow(codes: np.ndarray, labels: np.ndarray, seed: int):
    """Trains the flow that maps codes to factors."""
    flow = applications.InterpretationNetwork(
        block_count=6, hidden_sizes=[128, 128], mixing="shuffle"
    )
    flow.adapt(codes[:4096])
    pairs = ContinuousPairs(codes, labels, CORRELATION, 2 * BATCH_SIZE, seed=seed, share="one")
    prepare(flow, losses.SupervisedFactorLoss(SIZES.values()), FLOW_EPOCH_COUNT * len(pairs))
    flow.fit(pairs, epochs=FLOW_EPOCH_COUNT, verbose=0)
    return flow


def correlate_pairs(flow, codes: np.ndarray, factors: np.ndarray, seed: int) -> np.ndarray:
    """Returns correlations in blocks (columns) of pairs that are alike in one factor (rows)."""
    pairs = ContinuousPairs(codes, factors, CORRELATION, seed=seed, share="one")
    metric = metrics.PairCorrelation(SIZES.values())
    for _ in range(len(FACTORS)):  # an epoch has as many pairs as there are codes
        for x, y in (pairs[index] for index in range(len(pairs))):
            metric.update_state(y, flow.predict_on_batch(x))
        pairs.on_epoch_end()
    realised = np.mean(np.diag(pairs.realised_correlation))
    print(f"\nPairs have a correlation of {realised:.3f}, where {CORRELATION} was requested.")
    return metric.matrix()[1:]


def measure(images: np.ndarray) -> np.ndarray:
    """Measures the factors of ellipses by the moments of their pictures."""
    y, x = (np.indices(images.shape[1:3]).reshape(2, -1) + 0.5) / images.shape[1]
    ink = np.where(images > 0.1, images, 0.0).reshape(len(images), -1)
    shares = ink / np.maximum(ink.sum(axis=1, keepdims=True), 1e-9)  # 0 if there is no ink
    mean_x, mean_y = shares @ x, shares @ y
    covariance = mean_x * mean_y - shares @ (x * y)  # as y runs down, and angles are seen upright
    difference = shares @ (x * x - y * y) - mean_x**2 + mean_y**2
    scale, angle = np.sqrt(2 * ink.mean(1) / np.pi), np.arctan2(2 * covariance, difference) / 2
    return np.stack([scale, angle, mean_x, mean_y], axis=1)


def measure_moves(interpreter, images: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Returns how far factors (columns) move with a block (rows), as shares of their ranges."""
    moves = []
    for name in SIZES:
        start, end = map(measure, interpreter.traverse(images, name, [-1.5, 1.5]))
        move = np.abs(end - start)
        move[:, 1] = np.minimum(move[:, 1], np.pi - move[:, 1])  # half a turn changes nothing
        moves.append(np.median(move, axis=0) / ranges)
    return np.array(moves)


def score(codes: np.ndarray, factors: np.ndarray, sizes=None) -> list[float]:
    """Returns MIG, SAP and the three parts of DCI."""
    mig = metrics.mutual_information_gap(codes, factors, sizes)
    sap = metrics.separated_attribute_predictability(codes, factors, sizes)
    dci = metrics.disentanglement_completeness_informativeness
    return [mig, sap, *dci(codes[:2000], factors[:2000], sizes, estimator="random_forest")]


def print_matrix(title: str, rows, columns, matrix) -> None:
    print(f"\n{title}\n{'':24}" + "".join(f"{name:>13}" for name in columns))
    for name, values in zip(rows, matrix, strict=True):
        print(f"{name:24}" + "".join(f"{value:z13.3f}" for value in values))


def plot(strips: np.ndarray, correlations: np.ndarray, before: np.ndarray, after: np.ndarray):
    """Draws traversals, correlations of pairs, and what is read before and after."""
    figure, axes = plt.subplots(2, 2, figsize=(9, 6.4), layout="constrained", dpi=100)
    axes = axes.ravel()
    traversal_strips(strips, list(SIZES), ax=axes[0])
    correlation_heat_map(correlations, FACTORS, list(SIZES), axes[1])
    leakage_heat_map(before, [f"for {x}" for x in FACTORS], FACTORS, axes[2])
    leakage_heat_map(after, list(SIZES), FACTORS, axes[3])
    titles = "One block moves", "Pairs alike in a factor", "Read from best dimensions"
    for ax, title in zip(axes, [*titles, "Read from blocks"], strict=True):
        ax.set(title=title, xlabel="", ylabel="")
        plt.setp(ax.get_xticklabels(), rotation=35, ha="right", rotation_mode="anchor")
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("sprites_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the seed")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    arguments = parser.parse_args()
    start = time.perf_counter()
    seed = arguments.seed
    keras.utils.set_random_seed(seed)
    turns = (-np.pi / 3, np.pi / 3)  # less than half a turn, after which an ellipse looks the same
    sprites = Sprites(IMAGE_SIZE, ["ellipse"], (0.15, 0.3), turns, (0.3, 0.7))
    images, factors = sprites.sample(TRAIN_COUNT + TEST_COUNT, seed=seed)
    factors = factors[:, 1:]
    random = np.random.default_rng(seed)
    labels = factors + LABEL_NOISE * factors.std(axis=0) * random.normal(size=factors.shape)

    # Without noise, codes would lie on a surface of four dimensions, and have no density.
    encoder, decoder = train_autoencoder(images[:TRAIN_COUNT])
    clean = encoder.predict(images, verbose=0)
    codes = clean + CODE_NOISE * random.normal(size=clean.shape).astype("float32")
    flow = train_flow(codes[:TRAIN_COUNT], labels[:TRAIN_COUNT], seed)
    data = images, factors, labels, clean, codes
    images, factors, labels, clean, codes = (x[TRAIN_COUNT:] for x in data)  # held out
    latent, clean_latent = (flow.predict(x, verbose=0)[0] for x in (codes, clean))

    correlations = correlate_pairs(flow, codes, factors, seed)
    print_matrix("Correlations of pairs (rows) in blocks", FACTORS, SIZES, correlations)

    read = functools.partial(metrics.leakage, probe="nearest", neighbours=20)
    raw, of_labels = read(codes, factors), np.diag(read(labels, factors))
    before, after = raw[raw.argmax(axis=0)], read(latent, factors, SIZES.values())
    rows = (
        "labels with their errors",
        "whole code",
        *(f"best for {x}" for x in FACTORS),
        *SIZES,
    )
    matrix = [of_labels, *read(codes, factors, [CODE_SIZE]), *before, *after]
    print_matrix("How well factors are read by nearest neighbours, R²", rows, FACTORS, matrix)
    others = after[~np.eye(len(SIZES), dtype=bool)[:, 1:]]
    noise = LABEL_NOISE**2 / (1 + LABEL_NOISE**2)
    print(f"At most {others.max():.3f} is read from other blocks; {noise:.3f} of labels is error.")
    of_clean = read(clean_latent, factors, SIZES.values())
    print_matrix("The same of codes without noise", SIZES, FACTORS, of_clean)
    left = clean_latent.var(axis=0)[: SIZES["residual"]].mean()
    print(f"The residual then keeps {left:.2f} of its variance; its scores are shares of that.")

    interpreter = interpretation.Interpreter(encoder, flow, decoder, SIZES)
    limits = np.array([sprites.ranges[name] for name in FACTORS])
    moves = measure_moves(interpreter, images[:500], np.ptp(limits, axis=1))
    title = "Moves of pictures, in ranges, with the first dimension of a block"
    print_matrix(title, SIZES, FACTORS, moves)
    scores = {
        "dimensions, before": score(codes, factors),
        "blocks, after": score(latent, factors, SIZES.values()),
        "labels": score(labels, factors),
    }
    names = "MIG", "SAP", "DCI: disent.", "complete.", "informat."
    print_matrix("Scores", scores, names, scores.values())

    picture = sprites.render([[0, *limits.mean(axis=1)]])  # in the middle of all ranges
    strips = [interpreter.traverse(picture, name, np.linspace(-1.5, 1.5, 7)) for name in SIZES]
    figure = plot(np.concatenate(strips, axis=1).swapaxes(0, 1), correlations, before, after)
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "sprites.png")
    if arguments.docs:
        figure.savefig(Path(__file__).resolve().parents[1] / "docs" / "images" / "sprites.png")
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
