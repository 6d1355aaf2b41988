"""Disentangle pictures of coloured digits, then swap their digits and their colours.

An autoencoder is trained on small handwritten digits in random colours. Its latent codes describe a
picture, but no group of their dimensions stands for "the digit" or for "the colour".
`fit_interpreter` is given these codes, with the digit and the colour of each, and finds an
invertible map to three blocks: the digit, the colour, and a residual for everything else, such as
slant and stroke.

As the map is invertible, pictures can be edited factor by factor: take picture a, replace its digit
block by that of picture b, map back and decode. On pictures that no model has seen, a classifier
should then read the digit of b, still in the colour of a. The same is done with linear maps that
need no training: with blocks of the same sizes as those of the flow, and with the best sizes for
each map.

    python examples/colourful_digits.py --output figures

References:
    - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation network
      for explaining latent representations." `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers, ops
from matplotlib import colors
from tqdm import tqdm

from gyoza import interpretation
from gyoza.data import TintedDigits, load_tinted_digits, tint
from gyoza.interpretation import baselines
from gyoza.plotting import swap_grid, training_curves, traversal_strips

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

FACTORS = "digit", "colour"
IMAGE_SIZE = 8
CODE_SIZE = 32

# Training
CLASSIFIER_EPOCH_COUNT = 8
AUTOENCODER_EPOCH_COUNT = 15
KL_WEIGHT = 3e-5
BATCH_SIZE = 256

# Linear methods, and the sizes of digit and colour to choose from by validation
LINEAR_METHODS = {"pair axes": baselines.pair_axes, "principal axes": baselines.principal_axes}
LINEAR_SIZES = tuple(itertools.product((6, 9, 14, 20, 24), (2, 4)))

# Evaluation and figures
PAIR_COUNT = 2000


# -------------------------------------------------------------------------------------- the models


class Sampling(layers.Layer):
    """Draws codes around their means, and adds the Kullback-Leibler term that keeps them normal.

    This is what makes the autoencoder a variational one: it has to tolerate noise, so that codes
    between those it was trained on decode to pictures of digits, too.
    """

    def __init__(self, kl_weight: float) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs):
        """Returns a sample of the code, and adds the loss."""
        mean, log_variance = inputs
        kl = 0.5 * ops.sum(mean**2 + ops.exp(log_variance) - log_variance - 1.0, axis=-1)
        self.add_loss(self.kl_weight * ops.mean(kl))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


def make_autoencoder() -> tuple[keras.Model, keras.Model, keras.Model]:
    """Returns the autoencoder, its encoder (to the mean and a sample), and its decoder."""
    images = keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3])
    x = layers.Conv2D(32, 3, padding="same", activation="silu")(images)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="silu")(x)
    x = layers.Dense(256, activation="silu")(layers.Flatten()(x))
    mean = layers.Dense(CODE_SIZE)(x)
    log_variance = layers.Dense(CODE_SIZE, kernel_initializer="zeros")(x)
    encoder = keras.Model(images, [mean, Sampling(KL_WEIGHT)([mean, log_variance])])

    codes = keras.Input([CODE_SIZE])
    x = layers.Dense(256, activation="silu")(codes)
    size = IMAGE_SIZE // 2
    x = layers.Dense(size * size * 32, activation="silu")(x)
    x = layers.Reshape([size, size, 32])(x)
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="silu")(x)
    decoder = keras.Model(codes, layers.Conv2D(3, 3, padding="same", activation="sigmoid")(x))

    return keras.Model(images, decoder(encoder(images)[1])), encoder, decoder


def make_classifier() -> keras.Model:
    """Returns a network that reads digits of any colour, to judge the edited pictures."""
    return keras.Sequential(
        [
            keras.Input([IMAGE_SIZE, IMAGE_SIZE, 3]),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )


# ---------------------------------------------------------------------------------------- training


class ProgressBar(keras.callbacks.Callback):
    """Shows one bar for the whole training, instead of one for each epoch as Keras does."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title

    def on_train_begin(self, logs=None):
        """Opens the bar."""
        total = self.params["epochs"] * self.params["steps"]
        self.bar = tqdm(total=total, desc=f"{self.title:12}", unit="step", dynamic_ncols=True)

    def on_train_batch_end(self, batch, logs=None):
        """Advances the bar."""
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        """Shows the losses."""
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in logs.items()})

    def on_train_end(self, logs=None):
        """Closes the bar."""
        self.bar.close()


def prepare(model, loss, learning_rate: float, step_count: int) -> None:
    """Compiles a model with a learning rate that decays to zero within `step_count` steps."""
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, step_count)
    optimizer = keras.optimizers.Adam(schedule)
    # On a CPU, compiling for XLA takes longer than it saves in trainings as short as these.
    model.compile(optimizer, loss=loss, jit_compile=False)
    # Otherwise the optimiser is built within the first step, which is then traced twice.
    optimizer.build(model.trainable_variables)


def count_steps(data: TintedDigits, epoch_count: int) -> int:
    """Returns the number of batches in a number of epochs."""
    return epoch_count * -(-len(data) // BATCH_SIZE)


def predict(model: keras.Model, x: np.ndarray):
    """Applies a model to all instances at once, which is fastest for small pictures."""
    return keras.tree.map_structure(ops.convert_to_numpy, model(x))


def train_classifier(train: TintedDigits, validation: TintedDigits) -> keras.Model:
    """Trains the judge on pictures in all colours."""
    classifier = make_classifier()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    prepare(classifier, loss, 3e-3, count_steps(train, CLASSIFIER_EPOCH_COUNT))
    classifier.fit(
        train.images,
        train.digits,
        batch_size=BATCH_SIZE,
        epochs=CLASSIFIER_EPOCH_COUNT,
        validation_data=(validation.images, validation.digits),
        callbacks=[ProgressBar("Classifier")],
        verbose=0,
    )
    return classifier


def train_autoencoder(train: TintedDigits, validation: TintedDigits) -> tuple:
    """Trains the autoencoder, which knows nothing about digits or colours as such."""
    autoencoder, encoder, decoder = make_autoencoder()
    prepare(autoencoder, "mse", 3e-3, count_steps(train, AUTOENCODER_EPOCH_COUNT))
    history = autoencoder.fit(
        train.images,
        train.images,
        batch_size=BATCH_SIZE,
        epochs=AUTOENCODER_EPOCH_COUNT,
        validation_data=(validation.images, validation.images),
        callbacks=[ProgressBar("Autoencoder")],
        verbose=0,
    )
    return encoder, decoder, history.history


def fit_flow(parts, train: TintedDigits, validation: TintedDigits, seed: int):
    """Fits the flow, with estimated sizes of factors."""
    return interpretation.fit_interpreter(
        parts,
        train.images,
        train.classes(),
        names=FACTORS,
        validation_data=(validation.images, validation.classes()),
        seed=seed,
    )


def fit_linear_map(method, parts, train: TintedDigits, validation: TintedDigits, classifier, seed):
    """Fits a linear map in closed form, with the sizes of factors that do best in validation."""

    def fit(digit: int, colour: int) -> interpretation.Interpreter:
        sizes = [CODE_SIZE - digit - colour, digit, colour]
        return method(parts, train.images, train.classes(), sizes, names=FACTORS, seed=seed)

    def score(interpreter: interpretation.Interpreter) -> float:
        return compute_score(evaluate(interpreter, classifier, validation, seed, pair_count=500))

    return max((fit(*sizes) for sizes in LINEAR_SIZES), key=score)


# -------------------------------------------------------------------------------------- evaluation


def read_digits(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    return predict(classifier, images).argmax(axis=-1)


def measure_hues(images: np.ndarray) -> np.ndarray:
    """Returns the hue, from 0 to 1, of all the ink in a picture."""
    means = images.mean(axis=(1, 2))
    return colors.rgb_to_hsv(means / means.max(axis=-1, keepdims=True))[:, 0]


def compute_colour_error(images: np.ndarray, hues: np.ndarray) -> float:
    """Returns the mean distance in degrees on the colour wheel. It is 90 for unrelated colours."""
    distances = np.abs(measure_hues(images) - hues)
    return float(360 * np.minimum(distances, 1 - distances).mean())


def evaluate(interpreter, classifier, pictures: TintedDigits, seed: int, pair_count=PAIR_COUNT):
    """Swaps factors between random pairs of different digits and measures the results.

    Returns:
        For each factor, the share of pictures that are read as the right digit, and the mean error
        of the colour in degrees.
    """
    a, b = np.random.default_rng(seed).integers(len(pictures), size=[2, pair_count])
    different = pictures.digits[a] != pictures.digits[b]
    a, b = pictures[a[different]], pictures[b[different]]
    results = {}
    for factor, of_digit, of_colour in (("digit", b, a), ("colour", a, b)):
        images = interpreter.swap(a.images, b.images, factor)
        right = read_digits(classifier, images) == of_digit.digits
        results[factor] = np.mean(right), compute_colour_error(images, of_colour.hues)
    return results


def compute_score(results: dict) -> float:
    """Returns one number for all: 1 is perfect, 0 is chance."""
    return np.mean([((right - 0.1) / 0.9, 1 - error / 90) for right, error in results.values()])


def measure_decoding(interpreter, classifier, test: TintedDigits) -> tuple[float, float]:
    """Measures pictures that are only encoded and decoded, which swaps cannot surpass."""
    decoded = interpreter.decode(interpreter.encode(test.images))
    right = np.mean(read_digits(classifier, decoded) == test.digits)
    return right, compute_colour_error(decoded, test.hues)


def print_table(results: list[dict]) -> None:
    """Prints what swaps achieve, and what they cannot surpass: means over seeds."""
    print(f"\n{'':33}{'':16}{'b gives its digit':>30}{'b gives its colour':>30}")
    titles = f"{'digit read, %':>16}{'colour, °':>14}"
    print(f"{'':33}{'digit + colour':>16}{titles}{titles}")
    for name in results[0]:
        sizes, measures = zip(*(result[name] for result in results), strict=True)
        cells = ""
        for factor in FACTORS:
            right, errors = zip(*(measure[factor] for measure in measures), strict=True)
            for values, width in ((100 * np.asarray(right), 16), (errors, 14)):
                cells += f"{interpretation.Estimate.of(values):.1f}".rjust(width)
        print(f"{name:33}{', '.join(dict.fromkeys(sizes)):>16}{cells}")
    print(
        "\nThe digit should be read as that of the picture which gives it, with no error in colour."
        "\nThe second column is how many of the 32 dimensions are exchanged: the more, the more of"
        "\nthe rest of a picture is exchanged as well, which is not measured here."
    )


# ----------------------------------------------------------------------------------------- figures


def pick_examples(pictures: TintedDigits, digits, hues, seed: int) -> TintedDigits:
    """Draws one picture for each of the digits, in the given colours.

    They are drawn from the quarter of each digit's pictures that is nearest to their mean, so that
    readers can tell at a glance which digit it is.
    """
    rng = np.random.default_rng(seed)
    ink = pictures.images.max(axis=-1)
    chosen = []
    for digit in digits:
        candidates = np.flatnonzero(pictures.digits == digit)
        distances = np.sum((ink[candidates] - ink[candidates].mean(axis=0)) ** 2, axis=(1, 2))
        chosen.append(rng.choice(candidates[np.argsort(distances)[: len(candidates) // 4]]))
    return TintedDigits(tint(ink[chosen], hues), np.asarray(digits), np.asarray(hues))


def save(figure, path: Path) -> None:
    """Saves a figure with 6 bits per colour, which looks the same and takes half the space."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] | 0b00000011
    plt.imsave(path, pixels, pil_kwargs={"optimize": True})
    plt.close(figure)


def plot_swaps(interpreter, test: TintedDigits, path: Path) -> None:
    """Draws two tables: rows are pictures a, columns pictures b, cells take one factor from b."""
    a = pick_examples(test, [3, 7, 0, 5, 2, 4], [0.0, 0.12, 0.32, 0.5, 0.62, 0.85], 0)
    b = pick_examples(test, range(10), np.linspace(0.04, 0.94, 10), 1)
    pairs = np.repeat(a.images, len(b), axis=0), np.tile(b.images, [len(a), 1, 1, 1])

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), dpi=100, layout="constrained")
    for panel, factor, title in (
        (axes[0], "digit", "digit of b, colour and style of a"),
        (axes[1], "colour", "colour of b, digit and style of a"),
    ):
        results = interpreter.swap(*pairs, factor)
        results = results.reshape(len(a), len(b), *results.shape[1:])
        swap_grid(results, a.images, b.images, "a", "b", panel, interpolation="lanczos")
        panel.set(title=title, anchor="S")
    save(figure, path)


def plot_traversals(interpreter, test: TintedDigits, path: Path) -> None:
    """Draws the steps between pairs of pictures when only one factor moves from a to b."""
    a = pick_examples(test, [0, 3, 4, 8, 7], [0.0, 0.3, 0.55, 0.8, 0.12], 2)
    b = pick_examples(test, [6, 5, 9, 2, 1], [0.6, 0.08, 0.85, 0.45, 0.7], 3)
    strips = {"a": [a.images]}
    for factor in ("digit", "colour", "residual"):
        strips[f"only the {factor} moves from a to b"] = interpreter.interpolate(
            a.images, b.images, steps=8, factors=factor
        )
    strips["b"] = [b.images]

    widths = [len(steps) for steps in strips.values()]
    figure, axes = plt.subplots(
        1, 5, figsize=(12, 2.55), dpi=100, layout="constrained", width_ratios=widths
    )
    for panel, (title, steps) in zip(axes, strips.items(), strict=True):
        traversal_strips(np.stack(steps, axis=1), ax=panel, interpolation="lanczos")
        panel.set_title(title)
    save(figure, path)


def plot_training(autoencoder_history: dict, flow_history: dict, path: Path) -> None:
    """Draws the losses of autoencoder and flow."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), dpi=100, layout="constrained")
    for panel, history, title in (
        (axes[0], autoencoder_history, "Autoencoder"),
        (axes[1], flow_history, "Flow"),
    ):
        training_curves(history, ax=panel)
        panel.set_title(title)
        panel.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("squared error + KL term")
    axes[1].set_ylabel("loss of pairs and exchanges")
    upper = np.max(np.concatenate([flow_history["loss"][1:], flow_history["val_loss"][1:]]))
    lower = np.min(np.concatenate([flow_history["loss"], flow_history["val_loss"]]))
    axes[1].set_ylim(lower - 0.05 * (upper - lower), upper)
    figure.savefig(path)
    plt.close(figure)


# -------------------------------------------------------------------------------------------- main


def run(seed: int, output: Path | None) -> dict:
    """Trains all networks, swaps factors, and draws figures if there is a folder for them.

    Returns:
        For each method, the sizes of its blocks and what `evaluate` measures.
    """
    keras.utils.set_random_seed(seed)
    train, validation, test = load_tinted_digits(seed=seed)
    classifier = train_classifier(train, validation)
    encoder, decoder, autoencoder_history = train_autoencoder(train, validation)
    parts = keras.Model(encoder.input, encoder.outputs[0]), decoder

    flow = fit_flow(parts, train, validation, seed)
    print(f"\n{flow.report}")
    sizes = flow.dimensions_per_factor
    interpreters = {"flow": flow}
    for name, method in LINEAR_METHODS.items():
        interpreters[f"{name}, sizes of the flow"] = method(
            parts, train.images, train.classes(), sizes, names=FACTORS, seed=seed
        )
        interpreters[f"{name}, best sizes"] = fit_linear_map(
            method, parts, train, validation, classifier, seed
        )
    accuracy = np.mean(read_digits(classifier, test.images) == test.digits)
    print(f"\nHeld-out pictures: {len(test)}, of which the classifier reads {accuracy:.1%}")
    results = {
        name: (
            "{digit} + {colour}".format(**interpreter.dimensions_per_factor),
            evaluate(interpreter, classifier, test, seed),
        )
        for name, interpreter in interpreters.items()
    }
    results["no swap"] = "", dict.fromkeys(FACTORS, measure_decoding(flow, classifier, test))

    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        plot_training(autoencoder_history, flow.report.history, output / "training.png")
        plot_swaps(flow, test, output / "swap_grid.png")
        plot_traversals(flow, test, output / "traversals.png")
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("colourful_digits_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="the number of seeds")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    results = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        results.append(run(seed, None if results else arguments.output))
        print_table(results[-1:])
    if len(results) > 1:
        print(f"\nMeans of {len(results)} seeds, and their standard errors")
        print_table(results)
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        images.mkdir(exist_ok=True)
        shutil.copy(arguments.output / "swap_grid.png", images)
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
