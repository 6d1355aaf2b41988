"""Exchange factors in the codes of autoencoders, by a flow and by linear methods, and compare.

An autoencoder is trained on pictures with two factors that are independent of each other. In the
codes of pictures that no model has seen, one factor is then exchanged between random pairs of
pictures, and the codes are decoded: the exchanged factor should be that of the other picture, and
the other factor should stay the same. There are three studies:

- *fashion*: Fashion-MNIST, tinted in random hues and shifted slightly. The factors are the class of
  clothing and the hue.
- *glyphs*: capital letters in sixteen styles of type (family, weight, slant), shifted and rotated
  slightly. The factors are the letter and the style, in combinations that were not trained.
- *circle*: ellipses. The factors are their orientation, which is periodic, so that no linear block
  of the code can represent it, and their position.

Fashion-MNIST is in the Debian package `dataset-fashion-mnist`; without its files, that study is
skipped.

    sudo apt-get install dataset-fashion-mnist
    python examples/swap_studies.py --study glyphs --output figures

References:
    - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation network
      for explaining latent representations." `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    - Xiao, H., Rasul, K. & Vollgraf, R. (2017). "Fashion-MNIST: a novel image dataset for
      benchmarking machine learning algorithms."
      `arXiv:1708.07747 <https://arxiv.org/abs/1708.07747>`_
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import matplotlib
import numpy as np
from colourful_digits import measure_hues, prepare, save
from keras import layers
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import affine_transform, uniform_filter
from sprites import measure as measure_ellipses

from gyoza import interpretation
from gyoza.data import Sprites, tint
from gyoza.interpretation import baselines

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

BATCH_SIZE = 128
CODE_NOISE = 0.2  # deviation of the noise on codes in training; that of codes is 1
HUE_CLASS_COUNT = 12
FASHION_SCALE = 0.8  # of clothes, so that there is room to shift them
FASHION = Path("/usr/share/datasets/fashion-mnist")  # where the Debian package puts it

# Evaluation and figures
PAIR_COUNT = 2000
EXAMPLE_COUNT = 8
UNITS = "°", "px"
SHOWN_METHODS = "principal axes", "pair axes", "flow"
COLOURS = {
    "units": "#c9c9c9",
    "principal axes": "#e69f00",
    "LEACE": "#cc79a7",
    "pair axes": "#56b4e9",
    "flow": "#0072b2",
}


# -------------------------------------------------------------------------------------- pictures


@dataclass
class Pictures:
    """Pictures and their factors, which can be indexed like an array.

    Args:
        images: Float32 array of shape [N, height, width, channels] with values in [0, 1].
        classes: The class in each factor, integers of shape [N, 2], from which pairs are made.
        values: The true values of what can be measured in the pictures, by name: of both factors
            and, last, of something else, if that is known. Arrays of shape [N].
    """

    images: np.ndarray
    classes: np.ndarray
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, indices) -> Pictures:
        values = {name: column[indices] for name, column in self.values.items()}
        return Pictures(self.images[indices], self.classes[indices], values)


@dataclass
class Splits:
    """Pictures for training, for choosing settings, for the results, and for judges."""

    train: Pictures
    validation: Pictures
    test: Pictures
    judged: Pictures


def read_idx(path: Path) -> np.ndarray:
    """Reads an array of bytes from a compressed file, the format of MNIST."""
    with gzip.open(path) as file:
        data = file.read()
    axis_count = data[3]
    shape = np.frombuffer(data, ">i4", axis_count, offset=4)
    return np.frombuffer(data, "uint8", offset=4 + 4 * axis_count).reshape(shape)


def load_fashion(folder: Path, seed: int) -> Splits:
    """Shifts clothes slightly and tints them. Those for testing are from the test set."""
    rng = np.random.default_rng(seed)
    sets = []
    for part, count in (("train", 14_000), ("t10k", 3_000)):
        clothes = read_idx(folder / f"{part}-labels-idx1-ubyte.gz")
        chosen = rng.permutation(len(clothes))[:count]
        clothes = clothes[chosen].astype(int)
        large = read_idx(folder / f"{part}-images-idx3-ubyte.gz")[chosen] / 255
        grey = np.empty(large.shape)
        shifts = rng.uniform(-2.0, 2.0, [count, 2])
        for image, shift, output in zip(large, shifts, grey, strict=True):
            offset = 13.5 * (1 - 1 / FASHION_SCALE) - shift / FASHION_SCALE
            affine_transform(image, [1 / FASHION_SCALE] * 2, offset, output=output, order=1)
        hues = rng.uniform(size=count)
        classes = np.stack([clothes, (HUE_CLASS_COUNT * hues).astype(int)], axis=1)
        values = {"class": clothes, "colour": hues, "place": shifts[:, 1] + 1j * shifts[:, 0]}
        sets.append(Pictures(tint(np.clip(grey, 0, 1), hues), classes, values))
    rest, test = sets
    return Splits(rest[:12_000], rest[12_000:], test, judged=rest[:12_000])


GLYPH_SIZE = 24
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
STYLES = [
    family + cut
    for family, cuts in {
        "DejaVuSans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "DejaVuSerif": ("", "-Bold", "-Italic", "-BoldItalic"),
        "STIXGeneral": ("", "Bol", "Italic", "BolIta"),
    }.items()
    for cut in cuts
]


def is_held_out(classes: np.ndarray) -> np.ndarray:
    """Returns which combinations are left out: a sixth of those of each letter and style."""
    letter, style = classes.T
    return (7 * letter + 5 * style) % 6 == 0


def draw_letters() -> np.ndarray:
    """Draws each letter in each style, in large pictures: `[26, 16, 96, 96]`."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    drawn = np.empty([len(LETTERS), len(STYLES), 96, 96])
    for column, style in enumerate(STYLES):
        font = ImageFont.truetype(folder / f"{style}.ttf", size=80)
        for row, letter in enumerate(LETTERS):
            canvas = Image.new("L", (96, 96))
            ImageDraw.Draw(canvas).text((48, 75), letter, fill=255, font=font, anchor="ms")
            drawn[row, column] = np.asarray(canvas) / 255
    return drawn


def make_glyphs(seed: int) -> Splits:
    """Shifts, scales and rotates letters slightly. Only judges see held-out combinations."""
    rng = np.random.default_rng(seed)
    ratio = 96 // GLYPH_SIZE
    drawn = uniform_filter(draw_letters(), size=(1, 1, ratio, ratio))  # what a small pixel covers
    seen = np.stack(np.indices(drawn.shape[:2]), axis=-1).reshape(-1, 2)
    all_of_them, seen = seen, seen[~is_held_out(seen)]
    sets = []
    for combinations, copies in ((seen, 36), (seen, 6), (all_of_them, 10), (all_of_them, 36)):
        classes = rng.permutation(np.repeat(combinations, copies, axis=0))
        images = np.empty([len(classes), GLYPH_SIZE, GLYPH_SIZE, 1], "float32")
        angles = rng.uniform(-0.06, 0.06, len(classes))
        scales = rng.uniform(0.9, 1.1, len(classes))
        shifts = rng.uniform(-1.2 * ratio, 1.2 * ratio, [len(classes), 2])
        for image, (row, column), angle, scale, shift in zip(
            images, classes, angles, scales, shifts, strict=True
        ):
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            matrix = ratio / scale * turn
            offset = 47.5 - matrix @ np.full(2, (GLYPH_SIZE - 1) / 2) + shift
            affine_transform(
                drawn[row, column], matrix, offset, output=image[..., 0], output_shape=(24, 24),
                order=1,
            )  # fmt: skip
        letters, styles = classes.T
        places = (shifts[:, 1] + 1j * shifts[:, 0]) / ratio  # in pixels, to the left and upwards
        sets.append(
            Pictures(images, classes, {"letter": letters, "style": styles, "place": places})
        )
    return Splits(*sets)


CIRCLE_SIZE = 24
ORIENTATION_CLASS_COUNT, POSITION_CLASS_COUNT = 24, 5  # the latter per axis


def make_ellipses(seed: int) -> Splits:
    """Draws ellipses, whose positions are classes of a square grid."""
    sprites = Sprites(CIRCLE_SIZE, ["ellipse"], (0.18, 0.3), (0.0, np.pi), (0.3, 0.7))
    images, factors = sprites.sample(17_000, seed=seed)
    turns, x, y = factors[:, 2] / np.pi, factors[:, 3], factors[:, 4]
    columns, rows = ((POSITION_CLASS_COUNT * (z - 0.3) / 0.4).astype(int) for z in (x, y))
    orientations = (ORIENTATION_CLASS_COUNT * turns).astype(int)
    classes = np.stack([orientations, POSITION_CLASS_COUNT * rows + columns], axis=1)
    places = CIRCLE_SIZE * (x + 1j * y)  # in pixels
    values = {"orientation": turns, "position": places, "size": CIRCLE_SIZE * factors[:, 1]}
    pictures = Pictures(images, classes, values)
    train, validation, test = pictures[:12_000], pictures[12_000:14_000], pictures[14_000:]
    return Splits(train, validation, test, judged=train)


# -------------------------------------------------------------------------------------- networks


def make_autoencoder(image_shape: tuple[int, ...], code_size: int) -> tuple:
    """Returns an encoder and a decoder. Every dimension of the code has deviation 1."""
    height, width, channel_count = image_shape
    style = {"kernel_size": 4, "strides": 2, "padding": "same", "activation": "relu"}
    encoder = [
        keras.Input(image_shape),
        layers.Conv2D(24, **style),
        layers.Conv2D(48, **style),
        layers.Flatten(),
        layers.Dense(256, activation="relu"),
        layers.Dense(code_size),
        layers.BatchNormalization(center=False, scale=False, momentum=0.9),
    ]
    decoder = [
        keras.Input([code_size]),
        layers.Dense(256, activation="relu"),
        layers.Dense(height // 4 * (width // 4) * 48, activation="relu"),
        layers.Reshape([height // 4, width // 4, 48]),
        layers.Conv2DTranspose(24, **style),
        layers.Conv2DTranspose(channel_count, **style | {"activation": "sigmoid"}),
    ]
    return keras.Sequential(encoder), keras.Sequential(decoder)


def make_judge(image_shape: tuple[int, ...], class_count: int) -> keras.Model:
    """Returns a network that reads the class of a factor from pictures."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            layers.Conv2D(24, 3, strides=2, padding="same", activation="relu"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dropout(0.3),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(class_count),
        ]
    )


def fit(model: keras.Model, loss, x: np.ndarray, y: np.ndarray, epoch_count: int) -> None:
    """Trains at a learning rate that decays to zero."""
    prepare(model, loss, 2e-3, epoch_count * -(-len(x) // BATCH_SIZE))
    model.fit(x, y, BATCH_SIZE, epoch_count, verbose=0)


def train_autoencoder(images: np.ndarray, code_size: int, epoch_count: int) -> keras.Model:
    """Trains an encoder and its decoder, with noise in between. They know nothing about factors.

    Noise on codes makes them fill the available space, and makes the decoder smooth.
    """
    encoder, decoder = make_autoencoder(images.shape[1:], code_size)
    autoencoder = keras.Sequential([encoder, layers.GaussianNoise(CODE_NOISE), decoder])
    fit(autoencoder, "binary_crossentropy", images, images, epoch_count)
    return autoencoder


def obtain(path: Path | None, make: Callable[[], keras.Model]) -> keras.Model:
    """Loads a network if its file exists; otherwise makes it, and saves it if there is a path."""
    if path is not None and path.exists():
        return keras.models.load_model(path)
    network = make()
    if path is not None:
        network.save(path)
    return network


def predict(network: keras.Model, x: np.ndarray) -> np.ndarray:
    return network.predict(x, batch_size=1000, verbose=0)


# ------------------------------------------------------------------------- measuring in pictures


def differ(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Returns the error of classes, in per cent."""
    return 100.0 * (found != true)


def measure_angle(found: np.ndarray, true: np.ndarray, full_turn: float) -> np.ndarray:
    """Returns the distance on a circle in degrees, from values as shares of a full turn."""
    distances = np.abs(found - true) % 1
    return full_turn * np.minimum(distances, 1 - distances)


def lie_apart(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Returns the distance of numbers, or of points as complex numbers."""
    return np.abs(found - true)


class Measure(NamedTuple):
    """How something is read from pictures, and how the error is measured.

    `read` is None if a judge has to be trained, for a number of epochs.
    """

    unit: str
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray]
    read: Callable[[np.ndarray], np.ndarray] | None = None
    epoch_count: int = 0


def read_orientations(images: np.ndarray) -> np.ndarray:
    return measure_ellipses(images)[:, 1] / np.pi % 1


def read_positions(images: np.ndarray) -> np.ndarray:
    _, _, x, y = measure_ellipses(images).T
    return CIRCLE_SIZE * (x + 1j * y)


def read_sizes(images: np.ndarray) -> np.ndarray:
    return CIRCLE_SIZE * measure_ellipses(images)[:, 0]


def train_judge(pictures: Pictures, name: str, measure: Measure, path: Path | None) -> Measure:
    """Trains a judge on original pictures, which are not from an autoencoder."""
    images, values = pictures.images, pictures.values[name]
    are_classes = measure.unit == "%"
    if are_classes:
        output_count = int(values.max()) + 1
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        values, output_count, loss = np.stack([values.real, values.imag], axis=1), 2, "mse"

    def make() -> keras.Model:
        judge = make_judge(images.shape[1:], output_count)
        fit(judge, loss, images, values, measure.epoch_count)
        return judge

    judge = obtain(path, make)

    def read(images: np.ndarray) -> np.ndarray:
        answers = predict(judge, images)
        return answers.argmax(axis=1) if are_classes else answers[:, 0] + 1j * answers[:, 1]

    return measure._replace(read=read)


# --------------------------------------------------------------------------------------- studies


class Study(NamedTuple):
    """What a study consists of.

    Args:
        load: Returns its pictures, given the folder of data and a seed.
        measures: How both factors and, last, something else are measured.
        code_size: The size of the autoencoder's code.
        epoch_count: The number of epochs of its training.
        sizes: For each factor, the sizes of its block from which linear methods choose.
        is_held_out: Maps classes to whether the combination is held out from training, if any is.
            Factors are then exchanged only if the result should be such a combination.
    """

    load: Callable[[Path, int], Splits]
    measures: dict[str, Measure]
    code_size: int
    epoch_count: int
    sizes: tuple[tuple[int, ...], tuple[int, ...]]
    is_held_out: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def factors(self) -> list[str]:
        """The names of the two factors."""
        return list(self.measures)[:2]


def train_judges(study: Study, judged: Pictures, cache: Path | None) -> dict[str, Measure]:
    """Returns the measures of a study with the judges that they need, for all seeds."""
    keras.utils.set_random_seed(0)
    return {
        name: measure
        if measure.read
        else train_judge(judged, name, measure, cache and cache / f"judge_{name}.keras")
        for name, measure in study.measures.items()
    }


STUDIES = {
    "fashion": Study(
        load_fashion,
        {
            "class": Measure("%", differ, epoch_count=8),
            "colour": Measure("°", functools.partial(measure_angle, full_turn=360), measure_hues),
            "place": Measure("px", lie_apart, epoch_count=8),
        },
        code_size=64,
        epoch_count=12,
        sizes=((9, 18, 36), (2, 6)),
    ),
    "glyphs": Study(
        lambda _, seed: make_glyphs(seed),
        {
            "letter": Measure("%", differ, epoch_count=8),
            "style": Measure("%", differ, epoch_count=12),
            "place": Measure("px", lie_apart, epoch_count=8),
        },
        code_size=48,
        epoch_count=20,
        sizes=((12, 20, 28), (8, 15)),
        is_held_out=is_held_out,
    ),
    "circle": Study(
        lambda _, seed: make_ellipses(seed),
        {
            "orientation": Measure(
                "°", functools.partial(measure_angle, full_turn=180), read_orientations
            ),
            "position": Measure("px", lie_apart, read_positions),
            "size": Measure("px", lie_apart, read_sizes),
        },
        code_size=16,
        epoch_count=12,
        sizes=((2, 4, 8), (2, 6)),
    ),
}


class Material:
    """The pictures of a study, the trained autoencoder, and codes.

    Args:
        study: The study.
        measures: Its measures, with their judges.
        splits: The pictures.
        cache: The folder in which networks are kept between runs, or None.
        seed: The seed of the autoencoder.
    """

    def __init__(self, study: Study, measures, splits: Splits, cache: Path | None, seed: int):
        keras.utils.set_random_seed(seed)
        self.study, self.measures, self.splits = study, measures, splits
        autoencoder = obtain(
            cache and cache / f"autoencoder_{seed}.keras",
            lambda: train_autoencoder(splits.train.images, study.code_size, study.epoch_count),
        )
        self.encoder, _, self.decoder = autoencoder.layers
        self.codes = {
            part: predict(self.encoder, getattr(self.splits, part).images)
            for part in ("train", "validation", "test")
        }
        # Codes are exchanged, so the network to interpret is the decoder.
        head = keras.Sequential([keras.Input([study.code_size]), layers.Identity()])
        self.network = head, self.decoder

    def measure(self, images: np.ndarray, values: dict[str, np.ndarray]) -> dict[str, float]:
        """Returns the mean errors of pictures that should have certain values, by name."""
        return {
            name: float(np.mean(measure.compare(measure.read(images), values[name])))
            for name, measure in self.measures.items()
        }

    def compute_chance(self) -> dict[str, float]:
        """Returns the mean errors between pictures that are independent of each other."""
        values = self.splits.test.values
        order = np.random.default_rng(0).permutation(len(self.splits.test))
        return {
            name: float(np.mean(measure.compare(values[name], values[name][order])))
            for name, measure in self.measures.items()
        }


# ------------------------------------------------------------------------------------- exchanges


def draw_pairs(material: Material, part: str, factor: str, count: int, seed: int) -> np.ndarray:
    """Draws pairs of pictures whose classes differ in both factors, `[2, count]`."""
    study, classes = material.study, getattr(material.splits, part).classes
    a, b = np.random.default_rng(seed).integers(len(classes), size=[2, 20 * count])
    fits = np.all(classes[a] != classes[b], axis=1)
    if study.is_held_out and part == "test":
        result, column = np.copy(classes[a]), study.factors.index(factor)
        result[:, column] = classes[b, column]
        fits &= study.is_held_out(result)
    return np.stack([a[fits][:count], b[fits][:count]])


def swap(interpreter, a: np.ndarray, b: np.ndarray, factor: str) -> np.ndarray:
    """Returns codes `a` with one factor of codes `b`. Without compilation, this is faster."""
    sizes = interpreter.dimensions_per_factor
    names = np.repeat(list(sizes), list(sizes.values()))
    latent_a, latent_b = (keras.ops.convert_to_numpy(interpreter.flow(x)[0]) for x in (a, b))
    latent = np.where(names == factor, latent_b, latent_a)
    return keras.ops.convert_to_numpy(interpreter.flow.invert(latent))


def evaluate(interpreter, material: Material, part: str, count: int, seed: int) -> dict:
    """Exchanges each factor and returns the mean errors, by exchanged factor and measure."""
    values, codes = getattr(material.splits, part).values, material.codes[part]
    errors = {}
    for factor in material.study.factors:
        a, b = draw_pairs(material, part, factor, count, seed)
        images = predict(material.decoder, swap(interpreter, codes[a], codes[b], factor))
        wanted = {name: value[b if name == factor else a] for name, value in values.items()}
        errors[factor] = material.measure(images, wanted)
    return errors


def rate(errors: dict, chance: dict[str, float]) -> float:
    """Returns 1 if everything is as it should be, and 0 if pictures are independent."""
    return float(np.mean([1 - of[name] / chance[name] for of in errors.values() for name in of]))


LINEAR_METHODS = {
    "random subspace": baselines.random_subspace,
    "units": baselines.units,
    "principal axes": baselines.principal_axes,
    "difference of means": baselines.difference_of_means,
    "LEACE": baselines.leace,
    "pair axes": baselines.pair_axes,
}


def fit_linear(method: Callable, material: Material, setting: tuple) -> Any:
    """Fits a linear method with given sizes of blocks, which are found in a given order."""
    sizes, order = setting
    factors = material.study.factors
    named = {factors[k]: sizes[k] for k in order}
    return method(
        material.network,
        material.codes["train"],
        material.splits.train.classes[:, list(order)],
        {"residual": material.study.code_size - sum(sizes), **named},
    )


def choose_setting(method: Callable, material: Material, flow_sizes: tuple[int, int]) -> tuple:
    """Finds the best sizes of blocks, and the best order, for a linear method.

    They are chosen on validation pictures, by the same measures that are reported in the end.
    """
    chance = material.compute_chance()
    sizes = dict.fromkeys([flow_sizes, *itertools.product(*material.study.sizes)])
    settings = [
        (pair, order)
        for pair in sizes
        for order in ((0, 1), (1, 0))
        if sum(pair) <= material.study.code_size
    ]

    def try_out(setting: tuple) -> float:
        interpreter = fit_linear(method, material, setting)
        return rate(evaluate(interpreter, material, "validation", 400, seed=1), chance)

    return max(settings, key=try_out)


def fit_flow(material: Material, seed: int) -> Any:
    """Fits a flow by the standard procedure."""
    splits, codes = material.splits, material.codes
    return interpretation.fit_interpreter(
        material.network,
        codes["train"],
        splits.train.classes,
        names=material.study.factors,
        validation_data=(codes["validation"], splits.validation.classes),
        seed=seed,
    )


# ---------------------------------------------------------------------------------------- report


def run(study: Study, arguments: argparse.Namespace) -> tuple[dict, Material, dict]:
    """Runs a study for all seeds.

    Returns:
        The errors of each method, of what is only decoded, and of unrelated pictures, each a list
        over seeds; and, for the first seed, the material and the interpreters by method.
    """
    errors: dict[str, list] = {}
    settings: dict[str, tuple] = {}
    examples = None
    measures = None
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        start = time.perf_counter()
        splits = study.load(arguments.data, seed)
        measures = measures or train_judges(study, splits.judged, arguments.cache)
        material = Material(study, measures, splits, arguments.cache, seed)
        prepared = time.perf_counter()
        interpreters = {"flow": fit_flow(material, seed)}
        fitted = time.perf_counter()
        sizes = interpreters["flow"].dimensions_per_factor
        flow_sizes = tuple(sizes[factor] for factor in study.factors)
        for name, method in LINEAR_METHODS.items():
            if name == "random subspace":  # a control, whose sizes are not to be optimised
                settings[name] = flow_sizes, (0, 1)
            elif name not in settings:
                settings[name] = choose_setting(method, material, flow_sizes)
            interpreters[name] = fit_linear(method, material, settings[name])
        for name in (*LINEAR_METHODS, "flow"):
            found = evaluate(interpreters[name], material, "test", PAIR_COUNT, seed)
            errors.setdefault(name, []).append(found)
        values, codes = material.splits.test.values, material.codes["test"]
        decoded = material.measure(predict(material.decoder, codes), values)
        for name, found in (("decoded only", decoded), ("unrelated", material.compute_chance())):
            errors.setdefault(name, []).append(dict.fromkeys(study.factors, found))
        print(
            f"Seed {seed}: networks in {prepared - start:.0f} s, flow in {fitted - prepared:.0f} s "
            f"(sizes {sizes}), linear methods in {time.perf_counter() - fitted:.0f} s",
            flush=True,
        )
        examples = examples or (material, interpreters)
    print("Sizes of linear methods, and the order of factors in which they are found:")
    for name, (chosen, order) in settings.items():
        first, second = (f"{study.factors[k]} {chosen[k]}" for k in order)
        print(f"  {name:22}{first}, {second}")
    return errors, *examples


def summarise(errors: list, factor: str, name: str, unit: str) -> str:
    """Returns the mean over seeds and its standard error; for classes, of the share of hits."""
    values = np.array([of_seed[factor][name] for of_seed in errors])
    estimate = interpretation.Estimate.of(100 - values if unit == "%" else values)
    return f"{estimate:.2f}" if unit == "px" else f"{estimate:.1f}"


def print_table(title: str, study: Study, errors: dict) -> None:
    """Prints the results of exchanges as a table in Markdown."""
    columns = [
        (factor, name, measure.unit)
        for factor in study.factors
        for name, measure in study.measures.items()
    ]
    print(f"\n{title}: classes read as wanted in %, or mean errors in {' and '.join(UNITS)}")
    heads = [f"{factor} exchanged: {name}, {unit}" for factor, name, unit in columns]
    print("| method | " + " | ".join(heads) + " |\n" + "|---" * (len(columns) + 1) + "|")
    for method, found in errors.items():
        print(f"| {method} | " + " | ".join(summarise(found, *x) for x in columns) + " |")


def plot(material: Material, interpreters: dict, errors: dict, path: Path) -> None:
    """Draws exchanges by several methods, and the scores of all methods."""
    study, codes = material.study, material.codes["test"]
    images = material.splits.test.images
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 3.4), dpi=100, layout="constrained", width_ratios=[4, 4, 3]
    )
    for panel, factor in zip(axes, study.factors, strict=False):
        a, b = draw_pairs(material, "test", factor, EXAMPLE_COUNT, seed=3)
        rows = {"a": images[a], "b": images[b]}
        for name in SHOWN_METHODS:
            edited = swap(interpreters[name], codes[a], codes[b], factor)
            rows[name] = predict(material.decoder, edited)
        table = np.concatenate([np.concatenate(list(row), axis=1) for row in rows.values()])
        panel.imshow(np.clip(table, 0, 1), cmap="gray", interpolation="lanczos")
        height = images.shape[1]
        panel.set_yticks(height * (np.arange(len(rows)) + 0.5), rows)
        panel.set(xticks=[], title=f"{factor} of b, the rest of a")
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)

    chance = errors["unrelated"][0][study.factors[0]]
    shown = [(factor, name) for factor in study.factors for name in study.measures]
    for place, (method, colour) in enumerate(COLOURS.items()):
        shares = [
            np.mean([1 - of_seed[factor][name] / chance[name] for of_seed in errors[method]])
            for factor, name in shown
        ]
        axes[2].barh(np.arange(len(shown)) + 0.15 * (place - 2), shares, 0.14, color=colour)
    axes[2].set_yticks(np.arange(len(shown)), [f"{f} exchanged:\n{n}" for f, n in shown])
    axes[2].invert_yaxis()
    axes[2].set(xlim=(0, 1), title="1: as it should be, 0: unrelated")
    axes[2].legend(
        axes[2].containers, COLOURS, frameon=False, ncols=3, loc="upper center",
        bbox_to_anchor=(0.4, -0.1), fontsize="small",
    )  # fmt: skip
    save(figure, path)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", choices=STUDIES, action="append", help="all if omitted")
    parser.add_argument("--output", type=Path, default=Path("swap_studies_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds")
    parser.add_argument("--data", type=Path, default=FASHION, help="folder of Fashion-MNIST")
    parser.add_argument("--cache", type=Path, help="folder to keep networks in between runs")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    cache = arguments.cache
    for title in arguments.study or STUDIES:
        if title == "fashion" and not arguments.data.is_dir():
            print(
                f"Skipped fashion: there is no folder {arguments.data}. Get it with `apt-get "
                "install dataset-fashion-mnist` on Debian or Ubuntu, or pass another as --data."
            )
            continue
        if cache:
            arguments.cache = cache / title
            arguments.cache.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        study = STUDIES[title]
        errors, material, interpreters = run(study, arguments)
        print_table(title, study, errors)
        path = arguments.output / f"swaps_{title}.png"
        plot(material, interpreters, errors, path)
        if arguments.docs:
            shutil.copy(path, Path(__file__).resolve().parents[1] / "docs" / "images")
        print(f"\nThe figure is {path} ({time.perf_counter() - start:.0f} s)\n", flush=True)


if __name__ == "__main__":
    main()
