"""See what a classifier keeps of digits and colours, and edit one of them inside it.

A classifier of coloured digits and an autoencoder have a hidden layer of 64 units at the same
place. From pairs of pictures that share a digit or a colour, the room is estimated that each
concept takes there: the classifier, which is asked for digits alone, gives more to the digit and
less to the colour than the autoencoder, which has to draw both.

Then a flow takes the hidden layer of the classifier apart into digit, colour and the rest. One of
them is replaced by that of another picture, and the network goes on from there: its answer should
follow the digit, and should not care for the other two. For comparison, units of the layer are
exchanged themselves, or as many principal components: those that tell most about the factor.

    python examples/inside_a_classifier.py --output figures

References:
    - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation network
      for explaining latent representations." `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers
from sklearn.decomposition import PCA
from sklearn.feature_selection import f_classif

from gyoza import applications, interpretation
from gyoza.data import CategoricalPairs, TintedDigits, load_tinted_digits
from gyoza.modelling import losses
from gyoza.modelling.metrics import leakage, swap_consistency
from gyoza.plotting import leakage_heat_map

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

FACTORS = "digit", "colour"
UNIT_COUNT = 64
NETWORK_EPOCH_COUNT = 8
FLOW_EPOCH_COUNT = 10
FLOW_BLOCK_COUNT = 6
CORRELATION = 0.9  # of two pictures that share a digit or a colour, in that factor's block
NOISE = 0.1  # added to representations the flow learns from, relative to their deviation
BATCH_SIZE = 256
PAIR_COUNT = 4000
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
    """Estimates the sizes of factors by either rule, at the hidden layer of either network."""
    sizes = {}
    for name, network in networks.items():
        head, _ = interpretation.split_network(network, "hidden")
        hidden = head.predict(train.images, verbose=0)
        pairs = CategoricalPairs(hidden, train.classes(), seed=seed)
        for rule in ("softmax", "proportional"):
            sizes[name, rule] = interpretation.estimate_factor_sizes(pairs, rule, FACTORS)
    return sizes


def train_flow(hidden: np.ndarray, classes: np.ndarray, sizes: dict[str, int], seed: int):
    """Trains a flow that takes hidden representations apart.

    Representations of a network fill few of their dimensions. Without noise, the flow would spend
    its effort on how thin they are in the others.
    """
    noise = np.random.default_rng(seed).normal(scale=NOISE * hidden.std(), size=hidden.shape)
    hidden = (hidden + noise).astype("float32")
    flow = applications.InterpretationNetwork(
        FLOW_BLOCK_COUNT, hidden_sizes=[128, 128], mixing="shuffle"
    )
    flow.adapt(hidden[:4096])
    pairs = CategoricalPairs(hidden, classes, BATCH_SIZE, CORRELATION, seed=seed)
    loss = losses.SupervisedFactorLoss(sizes.values())
    step_count = FLOW_EPOCH_COUNT * len(pairs)
    compile_and_fit(flow, loss, pairs, epoch_count=FLOW_EPOCH_COUNT, step_count=step_count)
    return flow


class Basis:
    """Blocks of directions in the hidden layer, exchanged as if they were factors.

    Args:
        tail: The network after the hidden layer.
        directions: Orthonormal directions as columns, `[64, 64]`.
        hidden: Representations, to find those directions that tell most about each factor.
        classes: The classes of each factor.
        sizes: How many directions each factor is given.
    """

    def __init__(self, tail, directions, hidden, classes, sizes: dict[str, int]) -> None:
        self.tail = tail
        rest = np.arange(UNIT_COUNT)
        chosen = []
        for column, factor in enumerate(FACTORS):
            scores, _ = f_classif(hidden @ directions[:, rest], classes[:, column])
            order = np.argsort(-scores)
            chosen.append(rest[order[: sizes[factor]]])
            rest = rest[order[sizes[factor] :]]
        self.directions = directions[:, np.concatenate([rest, *chosen])]
        ends = np.cumsum(list(sizes.values()))
        self.blocks = dict(zip(sizes, np.split(np.arange(UNIT_COUNT), ends[:-1]), strict=True))

    def encode(self, hidden: np.ndarray) -> np.ndarray:
        """Gives coordinates, those of one factor after those of another."""
        return hidden @ self.directions

    def swap(self, a: np.ndarray, b: np.ndarray, factor: str) -> np.ndarray:
        """Gives the outputs of the network for `a` with one factor of `b`."""
        a, b = np.copy(self.encode(a)), self.encode(b)
        a[:, self.blocks[factor]] = b[:, self.blocks[factor]]
        return self.tail.predict((a @ self.directions.T).astype("float32"), verbose=0)


def print_sizes(sizes: dict) -> None:
    print(f"\n{'Dimensions of 64, by the rule':32}{'digit':>8}{'colour':>8}{'residual':>10}")
    for (name, rule), found in sizes.items():
        digit, colour, residual = (found[factor] for factor in (*FACTORS, "residual"))
        print(f"{name + ', ' + rule:32}{digit:8}{colour:8}{residual:10}")


def print_rates(rates: dict, accuracy: float, accuracy_after_flow: float) -> None:
    print(f"\nThe classifier reads {accuracy:.1%} of unedited test pictures, and")
    print(f"{accuracy_after_flow:.1%} if the flow maps the hidden layer there and back.\n")
    print(f"{'Exchanged: its':18}{'digit':>18}{'colour':>18}{'residual':>18}")
    print(f"{'The answer is':18}" + 3 * f"{'of b':>9}{'of a':>9}")
    for method, of_method in rates.items():
        cells = [value for factor in (*FACTORS, "residual") for value in of_method[factor]]
        print(f"{method:18}" + "".join(f"{value:9.1%}" for value in cells))


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


def plot_rates(axes, rates: dict) -> None:
    names = [*FACTORS, "residual"]
    shades = "#0072b2", "#7fb8d9", "#c9c9c9"
    for place, (method, of_method) in enumerate(rates.items()):
        x = np.arange(len(names)) + 0.27 * (place - 1)
        follows = [of_method[name].follows for name in names]
        axes.bar(x, follows, 0.24, color=shades[place], label=method)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylim=(0, 1), xlabel="exchanged factor", ylabel="answer is b's digit")
    axes.set_title("What does the answer follow?")
    axes.legend(frameon=False)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("inside_a_classifier_figures"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--docs", action="store_true", help="draw into docs/images of this repository"
    )
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

    network, chosen = networks["classifier"], sizes["classifier", "softmax"]
    head, tail = interpretation.split_network(network, "hidden")
    hidden, test_hidden = (head.predict(x.images, verbose=0) for x in (train, test))
    classes = train.classes()
    flow = train_flow(hidden, classes, chosen, seed)
    interpreter = interpretation.Interpreter(head, flow, tail, chosen)
    bases = {
        "units": Basis(tail, np.eye(UNIT_COUNT), hidden, classes, chosen),
        "components": Basis(tail, PCA().fit(hidden).components_.T, hidden, classes, chosen),
    }

    random = np.random.default_rng(seed)
    a, b = random.integers(len(test), size=[2, PAIR_COUNT])
    rates = {"flow": {}, "units": {}, "components": {}}
    for factor in chosen:
        outputs = {
            name: x.swap(test_hidden[a], test_hidden[b], factor) for name, x in bases.items()
        }
        outputs["flow"] = interpreter.swap(test.images[a], test.images[b], factor)
        for name, logits in outputs.items():
            answers = logits.argmax(axis=-1)
            rates[name][factor] = swap_consistency(answers, test.digits[a], test.digits[b])
    through_flow = interpreter.decode(interpreter.encode(test.images))
    print_rates(
        rates,
        np.mean(network.predict(test.images, verbose=0).argmax(axis=-1) == test.digits),
        np.mean(through_flow.argmax(axis=-1) == test.digits),
    )

    factors = np.concatenate(list(interpreter.encode(test.images).values()), axis=1)
    codes = {"flow": factors, **{name: x.encode(test_hidden) for name, x in bases.items()}}
    labels = test.classes(hue_count=6)
    scores = {
        name: leakage(z, labels, chosen.values(), probe="nearest") for name, z in codes.items()
    }
    print("\nHow well digit and colour are read from each block by its nearest neighbours")
    print(f"{'':18}{'residual':>18}{'digit':>18}{'colour':>18}")
    print(f"{'':18}" + 3 * f"{'digit':>9}{'colour':>9}")
    for name, matrix in scores.items():
        print(f"{name:18}" + "".join(f"{value:9.2f}" for value in matrix.ravel()))

    arguments.output.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained", dpi=100)
    plot_sizes(axes[0], sizes)
    plot_rates(axes[1], rates)
    leakage_heat_map(scores["flow"], list(chosen), list(FACTORS), ax=axes[2])
    axes[2].set_title("What can be read from a factor?")
    figure.savefig(arguments.output / "inside_a_classifier.png")
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        figure.savefig(images / "inside_a_classifier.png")
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
