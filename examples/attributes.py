"""Write a vector of attributes, and see the sprite that has them.

A variational autoencoder is trained on small pictures of sprites, without being told what they
show. A flow then maps its codes to vectors in which shape, scale and position have blocks of their
own. They can be read there, and also written, since a flow is invertible. Orientation has no label:
it is left to the residual block, and to what classes leave open.

There are two kinds of vectors. In the first, all attributes are classes, with softmax codes. In the
second, all attributes except the shape are numbers from 0 to 1, learnt by squared distances. The
first kind is also learnt from a tenth of the labels. To judge what was written, the picture is
compared with all possible sprites, and the attributes of the nearest one are read.

    python examples/attributes.py --output figures

References:
    - Matthey, L., Higgins, I., Hassabis, D. & Lerchner, A. (2017). "dSprites: Disentanglement
      testing Sprites dataset." `<https://github.com/google-deepmind/dsprites-dataset>`_
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers, ops

from gyoza import applications
from gyoza.data import Sprites
from gyoza.modelling.attributes import AttributeCode
from gyoza.modelling.autoencoders import VariationalAutoencoder
from gyoza.plotting import traversal_strips

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

SPRITES = Sprites(image_size=32, scales=(0.15, 0.25), orientations=(0.0, math.pi / 4))
COUNTS = {"shape": 3, "scale": 5, "x": 5, "y": 5}  # values of each attribute, evenly spaced
STEPS = np.array(list(COUNTS.values())) - 1
CODE_SIZE = 20
KL_WEIGHT = 0.25  # below 1, codes keep more of the pictures, and draw them sharper
VALUE_NOISE = 0.06  # deviation from labels between 0 and 1
TRAIN_COUNT, TEST_COUNT = 12_000, 2_000
AUTOENCODER_EPOCH_COUNT, FLOW_EPOCH_COUNT = 20, 6


def render(classes: np.ndarray, orientations) -> np.ndarray:
    """Renders sprites from classes, `[N, 4]`, of their attributes, and orientations from 0 to 1."""
    low, high = np.array(list(SPRITES.ranges.values())).T
    shares = np.insert(classes / STEPS, 2, orientations, axis=1)
    return SPRITES.render(low + shares * (high - low))


def draw(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws sprites, and returns their pictures and the classes of their attributes."""
    classes = random.integers(STEPS + 1, size=[count, len(COUNTS)])
    return render(classes, random.uniform(size=count)), classes


class Judge:
    """Reads the attributes of a picture from the nearest one of all possible sprites."""

    def __init__(self) -> None:
        counts = np.insert(STEPS + 1, 2, 16)  # the attributes, and orientations
        grid = np.indices(counts).reshape(len(counts), -1).T
        self.classes = np.delete(grid, 2, axis=1)
        self.pixels = render(self.classes, grid[:, 2] / 15).reshape(len(grid), -1)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the classes, `[N, 4]`."""
        likeness = images.reshape(len(images), -1) @ self.pixels.T
        return self.classes[np.argmax(likeness - 0.5 * np.sum(self.pixels**2, axis=1), axis=1)]


def compile_and_fit(model, x, y, epoch_count: int, batch_size: int) -> None:
    """Trains at a learning rate that decays to zero."""
    step_count = epoch_count * -(-len(x) // batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, step_count)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=50.0)
    # On a CPU, compiling for XLA takes longer than it saves in trainings as short as these.
    model.compile(optimizer, jit_compile=False)
    model.fit(x, y, batch_size=batch_size, epochs=epoch_count, verbose=0)


def train_autoencoder(images: np.ndarray) -> VariationalAutoencoder:
    inputs = keras.Input([32, 32, 1])
    hidden = layers.Conv2D(16, 4, strides=2, padding="same", activation="relu")(inputs)
    hidden = layers.Conv2D(32, 4, strides=2, padding="same", activation="relu")(hidden)
    hidden = layers.Dense(256, activation="relu")(layers.Flatten()(hidden))
    outputs = [layers.Dense(CODE_SIZE)(hidden), layers.Dense(CODE_SIZE)(hidden)]
    encoder = keras.Model(inputs, outputs)
    of_decoder = [
        layers.Dense(256, activation="relu"),
        layers.Dense(8 * 8 * 32, activation="relu"),
        layers.Reshape([8, 8, 32]),
        layers.Conv2DTranspose(16, 4, strides=2, padding="same", activation="relu"),
        layers.Conv2DTranspose(1, 4, strides=2, padding="same"),
    ]
    autoencoder = VariationalAutoencoder(encoder, keras.Sequential(of_decoder), kl_weight=KL_WEIGHT)
    compile_and_fit(autoencoder, images, None, AUTOENCODER_EPOCH_COUNT, batch_size=128)
    return autoencoder


class Editor:
    """Reads and writes attributes of pictures, by a flow that learns from some of their labels."""

    def __init__(self, autoencoder, code: AttributeCode, images, classes, known_share=1.0) -> None:
        self.autoencoder, self.code = autoencoder, code
        # The class that a label of 1 stands for: 1 or, if attributes are numbers, the last class.
        self.units = np.where([count is None for count in code.attributes.values()], STEPS, 1)
        base = code.make_distribution(VALUE_NOISE, location=0.5, scale=0.35)
        self.flow = applications.RealNVP(10, [128, 128], base_distribution=base)
        labels = classes / self.units
        known_count = round(known_share * len(labels))
        labels[known_count:] = np.nan
        mean, log_variance = autoencoder.encoder.predict(images, verbose=0)
        self.flow.adapt(mean[:4096])
        # The flow is trained on new samples in every epoch, and applied to the means. Pictures with
        # labels come first, or clusters would form that are not the classes; later, they are half
        # of all pictures.
        count = FLOW_EPOCH_COUNT * len(labels)
        known, every = np.resize(range(known_count), count), np.resize(range(len(labels)), count)
        random = np.random.default_rng(0)
        for rows in (known, np.concatenate([known, every])):
            noise = random.normal(size=[len(rows), CODE_SIZE])
            codes = (mean[rows] + np.exp(0.5 * log_variance[rows]) * noise).astype("float32")
            compile_and_fit(self.flow, codes, labels[rows], 1, batch_size=256)

    def encode(self, images: np.ndarray):
        """Returns the vectors of pictures."""
        return self.flow(self.autoencoder.encode(images))[0]

    def read(self, z) -> np.ndarray:
        """Returns the classes, `[N, 4]`: the most probable, or those nearest to the numbers."""
        read = ops.convert_to_numpy(self.code.read(z, "argmax")) * self.units
        return read.round().clip(0, STEPS)

    def write(self, classes: np.ndarray, z=None, place: int | None = None) -> np.ndarray:
        """Creates pictures with given attributes, `[N, 4]`, or changes one in given vectors."""
        labels = classes / self.units
        if z is None:
            z = self.code.encode(labels)
        else:
            z = self.code.write(z, {list(COUNTS)[place]: labels[:, place]})
        return ops.convert_to_numpy(self.autoencoder.decode(self.flow.invert(z)))


def measure(editor: Editor, judge: Judge, test: tuple, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the shares of each attribute that are read and written correctly."""
    images, classes = test
    z = editor.encode(images)
    changed = np.stack([judge(editor.write(wanted, z, i)) for i in range(len(COUNTS))], axis=1)
    same = np.mean(changed == classes[:, None], axis=0)
    return {
        "read": np.mean(editor.read(z) == classes, axis=0),
        "written, all at once": np.mean(judge(editor.write(wanted)) == wanted, axis=0),
        "written alone": np.diag(np.mean(changed == wanted[:, None], axis=0)),
        "kept, another written": (same.sum(axis=0) - np.diag(same)) / (len(same) - 1),
    }


def print_readings(editors: dict[str, Editor], images: np.ndarray, classes: np.ndarray) -> None:
    """Prints all readings of x, for a picture with each of its values."""
    chosen = [np.flatnonzero(classes[:, 2] == x)[0] for x in range(COUNTS["x"])]
    print(f"\n{'readings of x, where it is':32}" + "".join(f"{x:8}" for x in np.linspace(0, 1, 5)))
    for name in ("sampled", "softmax", "argmax", "argmax_norm", "l2"):
        editor = editors["numbers" if name == "l2" else "classes"]
        values = ops.convert_to_numpy(editor.code.read(editor.encode(images[chosen]), name, "x"))
        for row in values.T:
            print(f"{name:32}" + "".join(f"{value:8.2f}" for value in row))


def plot(editors: dict[str, Editor], path: Path) -> None:
    """Draws sprites written from vectors, below those that truly have these attributes."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 9.6), dpi=72, layout="constrained")
    for place, panel in enumerate(axes, start=1):
        classes = np.tile(STEPS // 2, [3, STEPS[place] + 1, 1])
        classes[..., 0] = np.arange(3)[:, None]
        classes[..., place] = np.arange(STEPS[place] + 1)
        draw_all = [lambda x: render(x, 0.5), *(editor.write for editor in editors.values())]
        rows = np.stack([draw_row(x) for x in classes for draw_row in draw_all])
        traversal_strips(rows, 3 * ["true", *editors] if place == 1 else None, ax=panel)
        panel.set_title(f"{list(COUNTS)[place]} from smallest to largest")
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("attributes_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the seed")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    arguments = parser.parse_args()
    start = time.perf_counter()
    keras.utils.set_random_seed(arguments.seed)
    random = np.random.default_rng(arguments.seed)
    train, test = (draw(count, random) for count in (TRAIN_COUNT, TEST_COUNT))
    wanted = draw(TEST_COUNT, random)[1]
    judge, autoencoder = Judge(), train_autoencoder(train[0])
    classes = AttributeCode(COUNTS, CODE_SIZE)
    numbers = AttributeCode({**dict.fromkeys(COUNTS), "shape": 3}, CODE_SIZE)
    editors = {
        "classes": Editor(autoencoder, classes, *train),
        "a tenth": Editor(autoencoder, classes, *train, known_share=0.1),
        "numbers": Editor(autoencoder, numbers, *train),
    }

    decoded = ops.convert_to_numpy(autoencoder.decode(autoencoder.encode(test[0])))
    rates = {"no flow": {"decoded as they are": np.mean(judge(decoded) == test[1], axis=0)}}
    rates |= {name: measure(editor, judge, test, wanted) for name, editor in editors.items()}
    print(f"{'':32}" + "".join(f"{name:>8}" for name in COUNTS))
    for name, of_name in rates.items():
        for quantity, values in of_name.items():
            print(f"{name:10}{quantity:22}" + "".join(f"{value:8.1%}" for value in values))
    print_readings(editors, *test)

    arguments.output.mkdir(parents=True, exist_ok=True)
    plot(editors, arguments.output / "attributes.png")
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        shutil.copy(arguments.output / "attributes.png", images)
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
