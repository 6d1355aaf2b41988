"""Flows in continuous time: divergences, integrals of densities, training times, and transport.

Toy densities are those of the part `toy`, and one more of a single dimension. Transport is that of
`examples/transport.py`, from two moons to eight Gaussians. Plans of optimal transport, by which the
points of a batch are coupled, are compared with the exact assignment.
"""

import itertools
import pathlib
import sys
import time

import numpy as np
from keras import ops
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from gyoza import data
from gyoza.backend import jit
from gyoza.modelling.functions import compute_transport_plan

from .common import choose, to_numpy, write_table
from .toy import DENSITIES, measure

sys.path.append(str(pathlib.Path(__file__).parents[2] / "examples"))

import transport

INTEGRATED = {
    "mixture, 1-d": data.GaussianMixtureDensity(1),
    **{name: DENSITIES[name] for name in ("two moons", "eight Gaussians", "checkerboard")},
}
FLOWS = ["Flow matching", "FFJORD"]
SOLVERS = ["rk4", "midpoint", "euler"]
PLAN_SIZES = (256, 1024)
PLAN_SHIFTS = (0.0, 2.0)
GRID_SIZES = {1: 4096, 2: 256}


def integrate(model, x):
    """Returns the integral of a density over a grid that extends beyond the data."""
    size = GRID_SIZES[x.shape[1]]
    low, high = x.min(axis=0), x.max(axis=0)
    lines = np.linspace(low - 0.2 * (high - low), high + 0.2 * (high - low), size).T
    grid = np.stack(np.meshgrid(*lines), axis=-1).reshape(-1, x.shape[1])
    cell = np.prod(lines[:, 1] - lines[:, 0])
    return np.exp(to_numpy(model.log_prob(grid.astype("float32"), batch_size=4096))).sum() * cell


def run_densities(words):
    """Measures how long flows train on toy densities, and what their densities are then worth."""
    rows = []
    for name in choose(FLOWS, words):
        for label, density in INTEGRATED.items():
            model, seconds, gaps = measure(name, density)
            x = density.sample(100_000, seed=0)
            layer = getattr(model, "flow", model)._flow_layers_[-1]
            integrals = []
            for solver in SOLVERS:
                layer.solver = solver
                integrals.append(f"{integrate(model, x):.4f}")
            divergence = f"{gaps.mean():.3f} ± {gaps.std() / len(gaps) ** 0.5:.3f}"
            rows.append([name, label, f"{seconds:.0f} s", divergence, *integrals])
            print(*rows[-1], flush=True)
    note = (
        "Divergences in nats, with standard errors. Densities are those of `log_prob` with exact "
        "traces and the default number of steps, 16 for flow matching and 8 for FFJORD, by RK4, "
        "which is the default, and by the other solvers of fixed steps. They are summed over "
        f"{GRID_SIZES[2]}×{GRID_SIZES[2]} points in the plane, and {GRID_SIZES[1]} on the line."
    )
    header = ["flow", "data", "training", "divergence", *(f"integral, {s}" for s in SOLVERS)]
    write_table("continuous", header, rows, note, words)


def run_transport(seeds):
    """Measures how far transported points are from fresh data."""
    distances, times = {}, {name: [] for name in transport.COUPLINGS}
    for seed in range(seeds):
        models = {}
        for name in transport.COUPLINGS:
            start = time.perf_counter()
            models[name] = transport.train(name, seed)
            times[name].append(time.perf_counter() - start)
        for name, values in transport.measure(models, seed).items():
            distances.setdefault(name, []).append(values)

    def add_row(label, name, index=0, seconds="–"):
        values = np.concatenate(distances[name])[:, index]
        rows.append([label, f"{values.mean():.2f} ± {values.std():.2f}", seconds])

    rows = []
    add_row("two samples of the data", "fresh")
    for name in transport.COUPLINGS:
        seconds = f"{np.mean(times[name]):.0f} s"
        add_row(f"{name} coupling, 16 steps of RK4", name, -2, seconds)
        add_row(f"{name} coupling, one step of Euler", name, 0, seconds)
        add_row(f"{name} coupling, to data that are turned", f"{name}, turned", 0, seconds)
    add_row("points that stay where they are", "identity")
    count = seeds * transport.REPEAT_COUNT
    note = (
        f"Wasserstein distances to {transport.TEST_COUNT} fresh points of eight Gaussians, by the "
        f"best assignment: mean and standard deviation over {count} samples, of {seeds} models."
    )
    write_table("transport", ["points", "distance", "training"], rows, note)


def run_plans(seeds):
    """Measures how long plans of transport take to compute, and what they cost."""
    rows, compute_plan = [], jit(compute_transport_plan)
    for size, shift in itertools.product(PLAN_SIZES, PLAN_SHIFTS):
        times, means = np.zeros([seeds, 2]), np.zeros([seeds, 3])
        for seed in range(seeds):
            source, target = np.random.default_rng(seed).normal(size=[2, size, 2]).astype("float32")
            target += shift
            points = ops.convert_to_tensor(source), ops.convert_to_tensor(target)
            compute_plan(*points)
            marks = [time.perf_counter()]
            plan = np.exp(to_numpy(compute_plan(*points)))
            marks.append(time.perf_counter())
            costs = cdist(source, target, "sqeuclidean")
            assignment = linear_sum_assignment(costs)
            marks.append(time.perf_counter())
            times[seed] = np.diff(marks)
            means[seed] = costs.mean(), np.sum(plan * costs) / plan.sum(), costs[assignment].mean()
        seconds = [f"{1000 * value:.0f} ms" for value in times.mean(axis=0)]
        label = f"{size}, shifted by {shift:g}" if shift else f"{size}"
        rows.append([label, *seconds, *(f"{mean:.3f}" for mean in means.mean(axis=0))])
    note = (
        "Plans by Sinkhorn's iteration, in compiled code, and the exact assignment by SciPy, "
        "between points of a normal distribution in the plane and others, of the same one or one "
        f"that is shifted along both axes: times, and mean squared distances, over {seeds} seeds. "
        "Where the former are shorter than the latter, they do not use all points equally."
    )
    methods = ("Sinkhorn", "SciPy")
    header = ["points", *(f"time, {name}" for name in methods)]
    header += [f"distance, {name}" for name in ("random", *methods)]
    write_table("plans", header, rows, note)


def run(seeds, words):
    """Measures densities and, unless some flows are asked for by name, transport and plans."""
    run_densities(words)
    if not words:
        run_transport(seeds)
        run_plans(seeds)
