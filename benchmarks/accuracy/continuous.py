"""Flows in continuous time: divergences, integrals of densities, training times, and transport.

Toy densities are those of the part `toy`, and one more of a single dimension. Transport is that of
`examples/transport.py`, from two moons to eight Gaussians.
"""

import pathlib
import sys
import time

import numpy as np

from gyoza import data

from .common import choose, to_numpy, write_table
from .toy import DENSITIES, measure

sys.path.append(str(pathlib.Path(__file__).parents[2] / "examples"))

import transport

INTEGRATED = {
    "mixture, 1-d": data.GaussianMixtureDensity(1),
    **{name: DENSITIES[name] for name in ("two moons", "eight Gaussians", "checkerboard")},
}
FLOWS = ["Flow matching", "FFJORD"]
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
            integral = integrate(model, density.sample(100_000, seed=0))
            divergence = f"{gaps.mean():.3f} ± {gaps.std() / len(gaps) ** 0.5:.3f}"
            rows.append([name, label, f"{seconds:.0f} s", divergence, f"{integral:.4f}"])
            print(*rows[-1], flush=True)
    note = (
        "Divergences in nats, with standard errors. Densities are those of `log_prob` by default: "
        "with exact traces and a fixed number of steps. They are summed over "
        f"{GRID_SIZES[2]}×{GRID_SIZES[2]} points in the plane, and {GRID_SIZES[1]} on the line."
    )
    header = ["flow", "data", "training", "divergence", "integral of the density"]
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


def run(seeds, words):
    """Measures densities and, unless some flows are asked for by name, transport."""
    run_densities(words)
    if not words:
        run_transport(seeds)
