"""Anomalies: a density finds points off two moons, and overlooks pictures simpler than digits.

What is less likely than 99% of held-out data is flagged, by a flow and by a normal distribution.
The failure is that of Nalisnick et al. (2019), https://arxiv.org/abs/1810.09136.

    python examples/anomalies.py --output figures
"""

import argparse
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.covariance import EmpiricalCovariance
from sklearn.datasets import load_digits

from gyoza import applications
from gyoza.data import TwoMoons

plt.switch_backend("Agg")  # draws into files and needs no display


def find(flow, train, held_out, groups):
    """Yields how to score data, the threshold, and which part of each group is below it."""
    flow.adapt(train)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, 40 * len(train) // 100)
    flow.compile(keras.optimizers.Adam(schedule), jit_compile=False)
    flow.fit(train, batch_size=100, epochs=40, verbose=0)
    normal = EmpiricalCovariance().fit(train.reshape(len(train), -1))
    scores = {"flow": lambda data: keras.ops.convert_to_numpy(flow.log_prob(data))}
    scores["normal"] = lambda data: -normal.mahalanobis(data.reshape(len(data), -1))
    for name, score in scores.items():
        threshold = np.quantile(score(held_out), 0.01)
        found = {group: np.mean(score(data) < threshold) for group, data in groups.items()}
        print(f"found by {name}:", *(f"{group} {part:.1%}" for group, part in found.items()))
        yield name, score, threshold, found


def draw_points(ax):
    """Draws points around two moons, and where those begin that are flagged."""
    train, held_out, test = (TwoMoons(noise=0.05).sample(2000, seed) for seed in range(3))
    uniform = np.random.default_rng(3).uniform([-1.5, -1], [2.5, 1.5], [2000, 2]).astype("float32")
    grid = np.stack(np.meshgrid(*np.linspace([-1.5, -1], [2.5, 1.5], 121, dtype="float32").T), -1)
    groups = {"moons": test, "uniform": uniform}
    ax.scatter(*test[:500].T, s=4, color="0.3")
    found_by = find(applications.NeuralSplineFlow(3, [64, 64]), train, held_out, groups)
    for colour, (name, score, threshold, found) in zip(["C1", "C0"], found_by, strict=True):
        values = score(grid.reshape(-1, 2)).reshape(121, 121)
        ax.contour(*grid.T, values.T, [threshold], colors=colour, linestyles="solid")
        ax.plot([], [], color=colour, label=f"{name}: {found['uniform']:.0%} found")
    ax.set(title="Works: points around two moons", ylim=(-1.6, 1.5), aspect="equal")
    ax.legend(ncols=2, fontsize="small", loc="lower center", frameon=False)


def draw_pictures(ax):
    """Draws densities of digits, and of pictures that are none."""
    images = load_digits().images[..., None].astype("float32")
    train, held_out, test = images[:1000], images[1000:1400], images[1400:]
    shuffled = np.random.default_rng(0).permuted(test.reshape(len(test), 64), axis=1)
    groups = {"digits": test, "shuffled pixels": shuffled.reshape(test.shape)}
    groups |= {"half contrast": test // 2, "quarter contrast": test // 4, "blank": 0 * test}
    flow = applications.Glow(scale_count=2, step_count=2, width=32, levels=17)
    (_, score, threshold, found), _ = find(flow, train, held_out, groups)
    for row, data in enumerate(groups.values()):  # from the lowest 1% to the highest
        ax.hlines(row, *np.quantile(score(data), [0.01, 0.99]), color="0.5", lw=12)
    ax.axvline(threshold, color="C1")
    ax.set_yticks(range(5), [f"{group}: {part:.0%} found" for group, part in found.items()])
    ax.set(title="Fails: pictures simpler than digits", xlabel="log-density / nats")
    ax.set(xlim=(-400, 0), ylim=(4.5, -0.5))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("anomalies_figures"))
    parser.add_argument("--docs", action="store_true", help="draw into docs/images instead")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    draw_points(left)
    draw_pictures(right)
    folder = Path(__file__).parents[1] / "docs/images" if arguments.docs else arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "anomalies.png", dpi=80)
