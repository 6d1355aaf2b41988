"""Compare five kinds of latent vectors with labelled attributes.

Sprites have a shape, a scale, an orientation and a position. A `SupervisedVAE` learns to encode and
decode them, while labels determine which latent dimensions represent which attribute. The five
types differ in what the decoder sees of an attribute: a draw, probabilities, a class, a class
scaled to values between 0 and 1, or a number.

Every combination of attributes is a picture, and a fifth of them are held out. These serve to
measure how well attributes are read; how well pictures are reconstructed; how well pictures are
written from five classes; whether setting one attribute sets it, and keeps the others; and whether
the position halfway between two pictures is in the middle. To judge a picture, it is compared with
all sprites, and the attributes of the nearest one are read.

    python examples/supervised_vae.py --output figures
    python examples/supervised_vae.py --seeds 3 --known-share 0.1

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
from keras import ops

from gyoza.data import Sprites
from gyoza.interpretation import Estimate
from gyoza.modelling.autoencoders import SupervisedVAE
from gyoza.plotting import traversal_strips

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

TYPES = ["softmax", "sampled", "l2", "argmax", "argmax_norm"]
SPRITES = Sprites(24, scales=(0.2, 0.3), orientations=(0.0, math.pi / 4), positions=(0.3, 0.7))
NAMES = ["shape", "scale", "orientation", "x", "y"]
SIZES = [3, 3, 3, 8, 8]
X = NAMES.index("x")
CLASSES = np.indices(SIZES).reshape(len(SIZES), -1).T  # of all pictures
LOW, HIGH = np.array(list(SPRITES.ranges.values())).T
IMAGES = SPRITES.render(LOW + CLASSES / (np.array(SIZES) - 1) * (HIGH - LOW))
HELD_OUT_SHARE = 0.2
EPOCH_COUNT, BATCH_SIZE = 30, 64
QUANTITIES = ["read", "reconstructed", "written", "set", "kept", "halfway"]


def judge(images: np.ndarray) -> np.ndarray:
    """Returns the classes, `[N, 5]`, of the sprites that are nearest to pictures."""
    pixels = IMAGES.reshape(len(IMAGES), -1)
    likeness = images.reshape(len(images), -1) @ pixels.T
    return CLASSES[np.argmax(likeness - 0.5 * np.sum(pixels**2, axis=1), axis=1)]


def train(model_type: str, rows: np.ndarray, known_share: float, seed: int) -> SupervisedVAE:
    keras.utils.set_random_seed(seed)
    labels = CLASSES[rows].copy()
    labels[round(known_share * len(rows)) :] = -1
    model = SupervisedVAE(
        SPRITES.image_size,
        model_type=model_type,
        attr_list=NAMES,
        attr_sizes=SIZES,
        attribute_weight=10.0 / known_share,
        seed=seed,
    )
    step_count = EPOCH_COUNT * -(-len(rows) // BATCH_SIZE)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, step_count)
    # On a CPU, compiling for XLA takes longer than it saves in trainings as short as these.
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=50.0), jit_compile=False)
    model.fit(IMAGES[rows], labels, epochs=EPOCH_COUNT, batch_size=BATCH_SIZE, verbose=0)
    return model


def read(model: SupervisedVAE, images: np.ndarray) -> np.ndarray:
    """Returns the classes, `[N, 5]`: the most probable, or those nearest to the numbers."""
    values = ops.convert_to_numpy(model.code.read(model.encode(images), "argmax"))
    return values.round().clip(0, np.array(SIZES) - 1)


def write(model: SupervisedVAE, classes: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(model.decode(model.code.encode(classes)))


def measure(model: SupervisedVAE, rows: np.ndarray, seed: int) -> dict[str, float]:
    """Returns the average shares of attributes that are right."""
    images, classes = IMAGES[rows], CLASSES[rows]
    wanted = np.random.default_rng(seed).permutation(classes)
    is_set, is_kept = [], []
    for i, name in enumerate(NAMES):
        z = model.code.write(model.encode(images), {name: wanted[:, i]})
        seen = judge(ops.convert_to_numpy(model.decode(z)))
        is_set.append(seen[:, i] == wanted[:, i])
        is_kept.append(np.delete(seen == classes, i, axis=1))
    # In the list of pictures, one step in x alone is as many rows as there are values of y.
    left = rows[classes[:, X] < SIZES[X] - 6]
    right = left + 6 * SIZES[-1]
    (halfway,) = model.interpolate(IMAGES[left], IMAGES[right], steps=[0.5])
    return {
        "read": np.mean(read(model, images) == classes),
        "reconstructed": np.mean(judge(model.reconstruct(images)) == classes),
        "written": np.mean(judge(write(model, classes)) == classes),
        "set": np.mean(is_set),
        "kept": np.mean(is_kept),
        "halfway": np.mean(judge(halfway)[:, X] == CLASSES[left, X] + 3),
    }


def plot(models: dict[str, SupervisedVAE], rates: dict, path: Path, row: int) -> None:
    """Draws one held-out sprite with one attribute set, and the rates."""
    figure, axes = plt.subplots(
        1, 2, figsize=(12, 3.6), dpi=80, layout="constrained", width_ratios=[2, 1]
    )
    shown = ["shape", "orientation", "x"]
    names = [f"{name} {label}" for name in shown for label in range(SIZES[NAMES.index(name)])]
    true = np.tile(CLASSES[row], [len(names), 1])
    for column, name in enumerate(names):
        attribute, label = name.split()
        true[column, NAMES.index(attribute)] = label
    rows = [IMAGES[np.ravel_multi_index(true.T, SIZES)]]
    for model in models.values():
        rows.append(np.concatenate([model.traverse(IMAGES[row], name) for name in shown]))
    traversal_strips(np.stack(rows), ["true", *models], ax=axes[0])
    starts = np.cumsum([0, *(SIZES[NAMES.index(name)] for name in shown)])
    axes[0].set_xticks((starts[:-1] + starts[1:]) / 2, shown)
    axes[0].set_title("a held-out sprite, with one attribute set", fontsize=10)

    offsets = np.linspace(-0.25, 0.25, len(models))
    for offset, model_type in zip(offsets, models, strict=True):
        values = [np.mean([r[quantity] for r in rates[model_type]]) for quantity in QUANTITIES]
        places = np.arange(len(QUANTITIES)) + offset
        axes[1].plot(values, places, "o", markersize=6, label=model_type)
    axes[1].set_yticks(range(len(QUANTITIES)), QUANTITIES)
    axes[1].invert_yaxis()
    axes[1].grid(axis="x", alpha=0.3)
    axes[1].set_title("share of attributes that are right", fontsize=10)
    figure.legend(fontsize=8, loc="outside lower right", ncol=len(models))
    figure.savefig(path)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("supervised_vae_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="the number of seeds")
    parser.add_argument("--known-share", type=float, default=1.0, help="share of labelled pictures")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    arguments = parser.parse_args()
    start = time.perf_counter()
    rates, models = {}, {}
    print(f"{'':12}" + "".join(f"{quantity:>17}" for quantity in QUANTITIES), flush=True)
    for model_type in TYPES:
        rates[model_type] = []
        for seed in range(arguments.seed, arguments.seed + arguments.seeds):
            order = np.random.default_rng(seed).permutation(len(IMAGES))
            held_out, rows = np.split(order, [round(HELD_OUT_SHARE * len(order))])
            model = train(model_type, rows, arguments.known_share, seed)
            rates[model_type].append(measure(model, held_out, seed))
            if seed == arguments.seed:
                models[model_type], shown = model, held_out[0]
        line = f"{model_type:12}"
        for quantity in QUANTITIES:
            estimate = Estimate.of(r[quantity] for r in rates[model_type])
            line += f"{estimate:.1%}".rjust(17)
        print(line, flush=True)

    arguments.output.mkdir(parents=True, exist_ok=True)
    plot(models, rates, arguments.output / "supervised_vae.png", shown)
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        shutil.copy(arguments.output / "supervised_vae.png", images)
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
