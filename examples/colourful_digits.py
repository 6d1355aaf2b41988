"""Disentangle pictures of coloured digits, then swap their digits and their colours.

An autoencoder is trained on small handwritten digits in random colours. Its latent codes describe
a picture, but no group of their entries stands for "the digit" or for "the colour". A
`DisentanglingFlowModel` is then trained on these codes, which are left as they are. It learns, from
pairs of codes that share a digit or a colour, an invertible map to three blocks: the digit, the
colour, and a residual for everything else, such as slant and stroke.

As the map is invertible, pictures can be edited factor by factor: take picture a, replace its digit
block by that of picture b, map back and decode. On pictures that no model has seen, a classifier
then has to read b's digit, still in the colour of a.

    python examples/colourful_digits.py --output figures

References:
    - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation network
      for explaining latent representations." `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers, ops
from matplotlib import colors
from sklearn.feature_selection import f_classif
from tqdm import tqdm

from gyoza.data import CategoricalPairs, TintedDigits, load_tinted_digits, tint
from gyoza.modelling import conditioners, flow_layers, losses
from gyoza.plotting import swap_grid, training_curves, traversal_strips

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

# The factors, in the order of their blocks, and how many of the code's entries each is given
DIMENSIONS_PER_FACTOR = {"residual": 22, "digit": 8, "colour": 2}
DIMENSION_COUNT = sum(DIMENSIONS_PER_FACTOR.values())

# Training
CLASSIFIER_EPOCH_COUNT = 8
AUTOENCODER_EPOCH_COUNT = 15
KL_WEIGHT = 3e-5
FLOW_EPOCH_COUNT = 20
FLOW_BLOCK_COUNT = 6
CORRELATION = 0.98  # of two pictures that share a digit or a colour, in that factor's block
BATCH_SIZE = 256

# Evaluation and figures
PAIR_COUNT = 2000


# -------------------------------------------------------------------------------------- the models


class Sampling(layers.Layer):
    """Draws codes around their means, and adds the Kullback-Leibler term that keeps them normal.

    This is what makes the autoencoder a variational one: it has to tolerate noise, so pictures that
    are decoded from codes between those it was trained on look like digits, too.
    """

    def __init__(self, kl_weight: float) -> None:
        super().__init__()
        self.kl_weight = kl_weight
        self.seed_generator = keras.random.SeedGenerator()

    def call(self, inputs):
        """Gives a sample of the code, and remembers the loss."""
        mean, log_variance = inputs
        kl = 0.5 * ops.sum(mean**2 + ops.exp(log_variance) - log_variance - 1.0, axis=-1)
        self.add_loss(self.kl_weight * ops.mean(kl))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed_generator)
        return mean + ops.exp(0.5 * log_variance) * noise


def make_autoencoder() -> tuple[keras.Model, keras.Model, keras.Model]:
    """Gives the autoencoder, its encoder (to the mean and to a sample of it), and its decoder."""
    images = keras.Input([8, 8, 3])
    x = layers.Conv2D(32, 3, padding="same", activation="silu")(images)
    x = layers.Conv2D(64, 3, strides=2, padding="same", activation="silu")(x)
    x = layers.Dense(256, activation="silu")(layers.Flatten()(x))
    mean = layers.Dense(DIMENSION_COUNT)(x)
    log_variance = layers.Dense(DIMENSION_COUNT, kernel_initializer="zeros")(x)
    encoder = keras.Model(images, [mean, Sampling(KL_WEIGHT)([mean, log_variance])])

    codes = keras.Input([DIMENSION_COUNT])
    x = layers.Dense(256, activation="silu")(codes)
    x = layers.Reshape([4, 4, 64])(layers.Dense(4 * 4 * 64, activation="silu")(x))
    x = layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="silu")(x)
    decoder = keras.Model(codes, layers.Conv2D(3, 3, padding="same", activation="sigmoid")(x))

    return keras.Model(images, decoder(encoder(images)[1])), encoder, decoder


def make_classifier() -> keras.Model:
    """Gives a network that reads digits whatever their colour, and judges the edited pictures."""
    return keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(10),
        ]
    )


def make_flow(seed: int) -> flow_layers.DisentanglingFlowModel:
    """Gives the flow: blocks that normalise, shuffle, and couple either half with the other."""
    chain = []
    for block in range(FLOW_BLOCK_COUNT):
        chain += [
            flow_layers.ActivationNormalization(),
            flow_layers.ShufflePermutation(seed=seed + block),
            flow_layers.AdditiveCoupling(compute_coupling_parameters=conditioners.MLP([128, 128])),
            flow_layers.HeavisidePermutation(),
            flow_layers.AdditiveCoupling(compute_coupling_parameters=conditioners.MLP([128, 128])),
        ]
    return flow_layers.DisentanglingFlowModel([*chain, flow_layers.ActivationNormalization()])


# ---------------------------------------------------------------------------------------- training


class ProgressBar(keras.callbacks.Callback):
    """Shows one bar for a whole training, where Keras would show one for each epoch."""

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
    """Gives the number of batches in so many epochs."""
    return epoch_count * -(-len(data) // BATCH_SIZE)


def predict(model: keras.Model, x: np.ndarray):
    """Applies a model to all instances at once, which for small pictures is quickest."""
    return keras.tree.map_structure(ops.convert_to_numpy, model(x))


def train_classifier(train: TintedDigits, validation: TintedDigits) -> keras.Model:
    """Trains the judge, on pictures in all colours."""
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
    """Trains the autoencoder, which knows nothing of digits, nor of colours, as such."""
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


def train_flow(codes, classes, validation_codes, validation_classes, seed: int) -> tuple:
    """Trains the flow on pairs of codes that share a digit or a colour."""
    flow = make_flow(seed)
    flow.adapt(codes[:4096])
    pairs = CategoricalPairs(codes, classes, BATCH_SIZE, CORRELATION, seed=seed)
    validation_pairs = CategoricalPairs(
        validation_codes, validation_classes, 1024, CORRELATION, shuffle=False, seed=seed
    )
    loss = losses.SupervisedFactorLoss(DIMENSIONS_PER_FACTOR.values())
    prepare(flow, loss, 1e-3, FLOW_EPOCH_COUNT * len(pairs))
    history = flow.fit(
        pairs,
        epochs=FLOW_EPOCH_COUNT,
        validation_data=validation_pairs,
        callbacks=[ProgressBar("Flow")],
        verbose=0,
    )
    return flow, history.history


# ----------------------------------------------------------------------------- swapping of factors


class Editor:
    """Swaps blocks of codes, as they are in the flow's latent space, and decodes the result.

    Args:
        decoder: The autoencoder's decoder.
        flow: The flow, or `None` to swap entries of the codes themselves.
        blocks: For each factor, the indices of the entries that are swapped.
    """

    def __init__(self, decoder, flow, blocks: dict[str, np.ndarray]) -> None:
        self.decoder = decoder
        self.flow = flow
        self.blocks = blocks

    def to_latent(self, codes: np.ndarray) -> np.ndarray:
        """Gives the space in which blocks are swapped."""
        return codes if self.flow is None else ops.convert_to_numpy(self.flow(codes)[0])

    def to_images(self, latent: np.ndarray) -> np.ndarray:
        """Maps back and decodes."""
        codes = latent if self.flow is None else self.flow.invert(latent)
        return predict(self.decoder, ops.convert_to_numpy(codes))

    def swap(self, a: np.ndarray, b: np.ndarray, factor: str) -> np.ndarray:
        """Gives the pictures of codes `a` with one factor taken from codes `b`."""
        return self.blend(a, b, factor, 1.0)

    def blend(self, a: np.ndarray, b: np.ndarray, factor: str, weight: float) -> np.ndarray:
        """Goes only part of the way from `a` to `b`, in one factor."""
        latent, other = np.copy(self.to_latent(a)), self.to_latent(b)
        block = self.blocks[factor]
        latent[:, block] = interpolate(latent[:, block], other[:, block], weight)
        return self.to_images(latent)


def interpolate(a: np.ndarray, b: np.ndarray, weight: float) -> np.ndarray:
    """Goes from vectors `a` to vectors `b` on an arc around the origin.

    Most of a normal distribution in several dimensions lies in a shell around the origin. A
    straight line would leave this shell; in between two colours, for instance, it would pass grey.
    """
    length_a, length_b = (np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    cosine = np.sum(a * b, axis=1, keepdims=True) / (length_a * length_b)
    angle = np.arccos(np.clip(cosine, -1 + 1e-6, 1 - 1e-6))
    direction = (
        np.sin((1 - weight) * angle) * a / length_a + np.sin(weight * angle) * b / length_b
    ) / np.sin(angle)
    return ((1 - weight) * length_a + weight * length_b) * direction


def find_flow_blocks() -> dict[str, np.ndarray]:
    """Gives the entries of each factor, which stand one after the other."""
    ends = np.cumsum(list(DIMENSIONS_PER_FACTOR.values()))[:-1]
    return dict(zip(DIMENSIONS_PER_FACTOR, np.split(np.arange(DIMENSION_COUNT), ends), strict=True))


def find_best_raw_blocks(codes: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Gives as many entries per factor as the flow has, those that tell most about its classes."""
    blocks = {}
    for column, factor in enumerate(["digit", "colour"]):
        scores, _ = f_classif(codes, classes[:, column])
        blocks[factor] = np.argsort(-scores)[: DIMENSIONS_PER_FACTOR[factor]]
    return blocks


# -------------------------------------------------------------------------------------- evaluation


def read_digits(classifier: keras.Model, images: np.ndarray) -> np.ndarray:
    return predict(classifier, images).argmax(axis=-1)


def measure_hues(images: np.ndarray) -> np.ndarray:
    """Gives the hue, from 0 to 1, of all the ink in a picture."""
    means = images.mean(axis=(1, 2))
    return colors.rgb_to_hsv(means / means.max(axis=-1, keepdims=True))[:, 0]


def compute_colour_error(images: np.ndarray, hues: np.ndarray) -> float:
    """Gives the mean distance in degrees on the colour wheel. It is 90 for unrelated colours."""
    distances = np.abs(measure_hues(images) - hues)
    return float(360 * np.minimum(distances, 1 - distances).mean())


def evaluate(editor: Editor, classifier, codes, pictures: TintedDigits, seed: int) -> dict:
    """Swaps factors between random pairs of different digits and measures what comes out.

    Returns:
        Per factor, the share of pictures that are read as the digit they should show now, the share
        that is read as the digit of the other picture, and the error of colour in degrees.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.integers(len(pictures), size=[2, PAIR_COUNT])
    different = pictures.digits[a] != pictures.digits[b]
    a, b = a[different], b[different]
    results = {}
    for factor, digit_source, colour_source in (("digit", b, a), ("colour", a, b)):
        images = editor.swap(codes[a], codes[b], factor)
        digits = read_digits(classifier, images)
        # Each picture gives either its digit or its colour, so the source of one lacks the other.
        results[factor] = (
            np.mean(digits == pictures.digits[digit_source]),
            np.mean(digits == pictures.digits[colour_source]),
            compute_colour_error(images, pictures.hues[colour_source]),
        )
    return results


def print_table(classifier, decoder, codes, test: TintedDigits, flow_results, raw_results) -> None:
    """Prints what swaps achieve, next to what they cannot exceed and what chance would give."""
    decoded = predict(decoder, codes)
    test_accuracy = np.mean(read_digits(classifier, test.images) == test.digits)
    ceiling = np.mean(read_digits(classifier, decoded) == test.digits)
    ceiling_error = compute_colour_error(decoded, test.hues)

    rows = []
    for factor, title in (("digit", "b's digit into a"), ("colour", "b's colour into a")):
        (flow_new, flow_old, flow_error), (raw_new, raw_old, raw_error) = (
            flow_results[factor],
            raw_results[factor],
        )
        new, old, colour = ("b", "a", "a") if factor == "digit" else ("a", "b", "b")
        rows += [
            (title, f"reads {new}'s digit", flow_new, raw_new, 0.1, ceiling, "%"),
            ("", f"reads {old}'s digit", flow_old, raw_old, 0.1, None, "%"),
            ("", f"off {colour}'s colour", flow_error, raw_error, 90.0, ceiling_error, "°"),
        ]
    print(f"\nHeld-out pictures: {len(test)}, of which the classifier reads {test_accuracy:.1%}\n")
    print(f"{'Swap':20}{'Result':20}{'flow':>9}{'no flow':>9}{'chance':>9}{'no swap':>9}")
    for title, result, *values, unit in rows:
        cells = [
            "" if v is None else f"{100 * v:.1f} %" if unit == "%" else f"{v:.1f}°" for v in values
        ]
        print(f"{title:20}{result:20}" + "".join(f"{cell:>9}" for cell in cells))
    print(
        "\nno flow: the same swap on the codes, of those entries that tell most about the factor"
        "\nno swap: pictures that were only encoded and decoded, the best to be hoped for"
    )


# ----------------------------------------------------------------------------------------- figures


def pick_examples(pictures: TintedDigits, digits, hues, seed: int) -> TintedDigits:
    """Draws one picture for each of the digits, in the given colours.

    They are drawn from that quarter of a digit's pictures that are nearest to their mean, so that
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
    """Saves a figure in 6 bits per colour, which look the same and take half the space."""
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] | 0b00000011
    plt.imsave(path, pixels, pil_kwargs={"optimize": True})
    plt.close(figure)


def plot_swaps(editor: Editor, encoder, test: TintedDigits, path: Path) -> None:
    """Draws two tables: rows are pictures a, columns pictures b, cells take one factor from b."""
    a = pick_examples(test, [3, 7, 0, 5, 2, 4], [0.0, 0.12, 0.32, 0.5, 0.62, 0.85], 0)
    b = pick_examples(test, range(10), np.linspace(0.04, 0.94, 10), 1)
    a_codes, b_codes = (predict(encoder, x.images)[0] for x in (a, b))
    pairs = np.repeat(a_codes, len(b), axis=0), np.tile(b_codes, [len(a), 1])

    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), dpi=100, layout="constrained")
    for panel, factor, title in (
        (axes[0], "digit", "digit of b, colour and style of a"),
        (axes[1], "colour", "colour of b, digit and style of a"),
    ):
        results = editor.swap(*pairs, factor).reshape(len(a), len(b), 8, 8, 3)
        swap_grid(results, a.images, b.images, "a", "b", panel, interpolation="lanczos")
        panel.set(title=title, anchor="S")
    save(figure, path)


def plot_traversals(editor: Editor, encoder, test: TintedDigits, path: Path) -> None:
    """Draws what lies between pairs of pictures when only one factor moves from a to b."""
    a = pick_examples(test, [0, 3, 4, 8, 7], [0.0, 0.3, 0.55, 0.8, 0.12], 2)
    b = pick_examples(test, [6, 5, 9, 2, 1], [0.6, 0.08, 0.85, 0.45, 0.7], 3)
    a_codes, b_codes = (predict(encoder, x.images)[0] for x in (a, b))
    strips = {"a": [a.images]}
    for factor in ("digit", "colour", "residual"):
        strips[f"only the {factor} moves from a to b"] = [
            editor.blend(a_codes, b_codes, factor, weight) for weight in np.linspace(0, 1, 8)
        ]
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
    axes[1].set_ylabel("negative log-likelihood of pairs / nats")
    upper = np.max(np.concatenate([flow_history["loss"][1:], flow_history["val_loss"][1:]]))
    lower = np.min(np.concatenate([flow_history["loss"], flow_history["val_loss"]]))
    axes[1].set_ylim(lower - 0.05 * (upper - lower), upper)
    figure.savefig(path)
    plt.close(figure)


# -------------------------------------------------------------------------------------------- main


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("colourful_digits_figures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--docs", action="store_true", help="update docs/images/swap_grid.png of this repository"
    )
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    seed = arguments.seed
    keras.utils.set_random_seed(seed)
    arguments.output.mkdir(parents=True, exist_ok=True)

    train, validation, test = load_tinted_digits(seed=seed)
    classifier = train_classifier(train, validation)
    encoder, decoder, autoencoder_history = train_autoencoder(train, validation)

    # The flow is trained on samples, which cover more of the space, and used on the means.
    train_codes, validation_codes = (predict(encoder, x.images)[1] for x in (train, validation))
    flow, flow_history = train_flow(
        train_codes, train.classes(), validation_codes, validation.classes(), seed
    )

    codes = predict(encoder, test.images)[0]
    editor = Editor(decoder, flow, find_flow_blocks())
    raw_editor = Editor(decoder, None, find_best_raw_blocks(train_codes, train.classes()))
    results = (evaluate(e, classifier, codes, test, seed) for e in (editor, raw_editor))
    print_table(classifier, decoder, codes, test, *results)

    plot_training(autoencoder_history, flow_history, arguments.output / "training.png")
    plot_swaps(editor, encoder, test, arguments.output / "swap_grid.png")
    plot_traversals(editor, encoder, test, arguments.output / "traversals.png")
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        images.mkdir(exist_ok=True)
        shutil.copy(arguments.output / "swap_grid.png", images)
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
