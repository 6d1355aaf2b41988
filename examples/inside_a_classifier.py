"""See what a classifier knows about digits and colours, and edit one of them inside it.

A classifier of coloured digits and an autoencoder have a hidden layer of 64 units at the same
place. From pairs of pictures that share a digit or a colour, the number of dimensions of each
concept is estimated there: the classifier, which is asked for digits alone, has more for the digit
and fewer for the colour than the autoencoder, which has to draw both.

Then a flow maps the hidden layer of the classifier to digit, colour and a residual. One of them is
replaced by that of another picture, and the rest of the network is run: its answer should follow
the digit, and should not depend on the other two. The same is done with linear maps in closed form,
with blocks of the same sizes, and with a network of the same architecture whose weights are random:
what is found there, too, is not something that the network has learnt.

    python examples/inside_a_classifier.py --output figures

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

from gyoza import interpretation
from gyoza.data import CategoricalPairs, TintedDigits, load_tinted_digits
from gyoza.interpretation import baselines
from gyoza.modelling.metrics import leakage
from gyoza.plotting import leakage_heat_map, size_curves

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

FACTORS = "digit", "colour"
UNIT_COUNT = 64
NETWORK_EPOCH_COUNT = 8
BATCH_SIZE = 256
METHODS = {
    "random subspace": baselines.random_subspace,
    "units": baselines.units,
    "principal axes": baselines.principal_axes,
    "pair axes": baselines.pair_axes,
    "flow": functools.partial(interpretation.fit_interpreter, capacity="affine", step_count=300),
}
COLOURS = {"digit": "#0072b2", "colour": "#e69f00", "residual": "#b0b0b0"}


def compile_and_fit(model, loss, x, y=None, epoch_count: int = 1, step_count: int = 1) -> None:
    """Trains at a learning rate that decays to zero within `step_count` steps."""
    schedule = keras.optimizers.schedules.CosineDecay(2e-3, step_count)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=5.0)
    optimizer.build(model.trainable_variables)  # or the first step would be traced twice
    # On a CPU, compiling for XLA takes longer than it saves in trainings as short as these.
    model.compile(optimizer, loss=loss, jit_compile=False)
    batch_size = None if y is None else BATCH_SIZE
    model.fit(x, y, batch_size=batch_size, epochs=epoch_count, verbose=0)


def train_network(tail: list[keras.Layer], loss, train: TintedDigits, y) -> keras.Model:
    """Trains a network whose layer "hidden" is followed by `tail`."""
    network = keras.Sequential(
        [
            keras.Input([8, 8, 3]),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.Conv2D(48, 3, strides=2, padding="same", activation="relu"),
            layers.Flatten(),
            layers.Dense(UNIT_COUNT, name="hidden"),
            layers.ReLU(),
            *tail,
        ]
    )
    step_count = NETWORK_EPOCH_COUNT * -(-len(train) // BATCH_SIZE)
    compile_and_fit(network, loss, train.images, y, NETWORK_EPOCH_COUNT, step_count)
    return network


def train_networks(train: TintedDigits) -> dict[str, keras.Model]:
    """Trains the classifier and the autoencoder."""
    of_classifier = [layers.Dense(128, "relu"), layers.Dropout(0.2), layers.Dense(10)]
    of_autoencoder = [
        layers.Dense(256, "relu"),
        layers.Dense(4 * 4 * 48, "relu"),
        layers.Reshape([4, 4, 48]),
        layers.Conv2DTranspose(32, 3, strides=2, padding="same", activation="relu"),
        layers.Conv2D(3, 3, padding="same", activation="sigmoid"),
    ]
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return {
        "classifier": train_network(of_classifier, cross_entropy, train, train.digits),
        "autoencoder": train_network(of_autoencoder, "mse", train, train.images),
    }


def estimate_sizes(networks: dict[str, keras.Model], train: TintedDigits, seed: int) -> dict:
    """Estimates the sizes of factors by two rules, at the hidden layer of each network."""
    sizes = {}
    for name, network in networks.items():
        head, _ = interpretation.split_network(network, "hidden")
        hidden = head.predict(train.images, verbose=0)
        pairs = CategoricalPairs(hidden, train.classes(), seed=seed)
        for rule in ("proportional", "likelihood"):
            sizes[name, rule] = interpretation.estimate_factor_sizes(pairs, rule, FACTORS)
    return sizes


def print_sizes(sizes: dict) -> None:
    print(f"\n{'Dimensions of 64, by the rule':32}{'digit':>8}{'colour':>8}{'residual':>10}")
    for (name, rule), found in sizes.items():
        digit, colour, residual = (found[factor] for factor in (*FACTORS, "residual"))
        print(f"{name + ', ' + rule:32}{digit:8}{colour:8}{residual:10}")


def plot_sizes(axes, sizes: dict) -> None:
    for place, found in enumerate(sizes.values()):
        left = 0
        for factor in (*FACTORS, "residual"):
            label = factor if place == 0 else None
            axes.barh(place, found[factor], left=left, color=COLOURS[factor], label=label)
            axes.text(left + found[factor] / 2, place, found[factor], ha="center", va="center")
            left += found[factor]
    axes.set_yticks(range(len(sizes)), [f"{name},\n{rule} rule" for name, rule in sizes])
    axes.set(xlim=(0, UNIT_COUNT), xlabel="dimensions", title="How large is each factor?")
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=3, frameon=False)


def plot_rates(axes, comparison: interpretation.Comparison) -> None:
    shades = {"trained": "#0072b2", "re-initialised": "#c9c9c9"}
    for place, (network, shade) in enumerate(shades.items()):
        x = np.arange(len(METHODS)) + 0.38 * (place - 0.5)
        rates = [comparison.estimate(method, "digit: follows", network) for method in METHODS]
        means, errors = zip(*rates, strict=True)
        axes.bar(x, means, 0.34, yerr=errors, color=shade, label=f"{network} network")
    axes.set_xticks(range(len(METHODS)), METHODS, rotation=20, ha="right")
    axes.set(ylim=(0, 1.35), yticks=np.linspace(0, 1, 6), ylabel="answer is b's digit")
    axes.set_title("Does the answer follow the digit block?")
    axes.legend(frameon=False)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("inside_a_classifier_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    seed = arguments.seed
    keras.utils.set_random_seed(seed)
    train, _, test = load_tinted_digits(seed=seed)
    networks = train_networks(train)
    sizes = estimate_sizes(networks, train, seed)
    print_sizes(sizes)

    network, chosen = networks["classifier"], sizes["classifier", "likelihood"]
    parts = interpretation.split_network(network, "hidden")
    comparison = interpretation.compare(
        parts,
        train.images,
        train.classes(),
        test.images,
        test.classes(),
        chosen,
        names=FACTORS,
        methods=METHODS,
        networks=["trained", "re-initialised"],
        seeds=range(seed, seed + arguments.seeds),
    )
    print(f"\n{comparison}")
    by_size = interpretation.answers_by_size(
        parts,
        train.images,
        train.digits,
        test.images,
        test.digits,
        seeds=range(seed, seed + arguments.seeds),
    )
    print(f"\nAnswers that follow, by the number of dimensions that are exchanged\n{by_size}")

    interpreter = METHODS["flow"](parts, train.images, train.classes(), chosen, names=FACTORS)
    answers = network.predict(test.images, verbose=0).argmax(axis=-1)
    through_flow = interpreter.decode(interpreter.encode(test.images)).argmax(axis=-1)
    print(
        f"\nThe classifier reads {np.mean(answers == test.digits):.1%} of unedited test pictures,"
    )
    print(f"and {np.mean(through_flow == test.digits):.1%} through the flow and its inverse.")
    codes = np.concatenate(list(interpreter.encode(test.images).values()), axis=1)
    scores = leakage(codes, test.classes(hue_count=6), chosen.values(), probe="nearest")

    arguments.output.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.7), layout="constrained", dpi=90)
    plot_sizes(axes[0], sizes)
    plot_rates(axes[1], comparison)
    size_curves(*by_size, ax=axes[2])
    axes[2].set_title("How much has to be exchanged?")
    axes[2].legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2, frameon=False, fontsize=8
    )
    leakage_heat_map(scores, list(chosen), list(FACTORS), ax=axes[3])
    axes[3].set_title("What can be read from a factor?")
    figure.savefig(arguments.output / "inside_a_classifier.png")
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        figure.savefig(images / "inside_a_classifier.png")
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
