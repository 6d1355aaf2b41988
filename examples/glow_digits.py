"""Glow on digits: a multi-scale flow of images, against a normal distribution and single pixels.

Bits per dimension of held-out digits measure all three: without a model, a pixel with 17 levels
takes 4.09. All see pixels with uniform noise, so that their numbers are bounds for whole numbers.

    python examples/glow_digits.py --output figures
"""

import argparse
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import multivariate_normal
from sklearn.covariance import empirical_covariance
from sklearn.datasets import load_digits

from gyoza import applications
from gyoza.modelling.distributions import StudentT

plt.switch_backend("Agg")  # draws into files and needs no display
EPOCHS = 150


def fit_glow(x, validation):
    """Trains the flow, and keeps the weights that are best on validation data."""
    flow = applications.Glow(step_count=4, width=32, levels=17, base_distribution=StudentT())
    flow.adapt(x)
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, EPOCHS * len(x) // 100)
    flow.compile(keras.optimizers.Adam(schedule))
    best = keras.callbacks.EarlyStopping(patience=EPOCHS, restore_best_weights=True)
    options = {"batch_size": 100, "epochs": EPOCHS, "verbose": 0, "callbacks": [best]}
    flow.fit(x, validation_data=(validation, None), **options)
    return flow


def fit_normal(x, validation):
    """Fits a normal distribution, with the ridge that is best on validation data."""
    covariance = empirical_covariance(x, assume_centered=False)
    fits = [multivariate_normal(x.mean(0), covariance + r * np.eye(64)) for r in (0.1, 0.3, 1, 3)]
    return max(fits, key=lambda fit: fit.logpdf(validation).mean())


def draw(rows):
    """Draws rows of pictures, by name."""
    figure, axes = plt.subplots(len(rows), 12, figsize=(9, 3.2), layout="constrained")
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("glow_digits_figures"))
    parser.add_argument("--docs", action="store_true", help="draw into docs/images instead")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    images = random.permutation(load_digits().images[..., None]).astype("float32")
    x, validation, test = np.split(images, [1000, 1350])
    noisy = images.reshape(-1, 64) + random.random((len(images), 64))
    noisy = np.split(noisy, [1000, 1350])
    levels = np.arange(17)[:, None, None]
    frequencies = np.sum(noisy[0].astype(int) == levels, axis=1) + 0.5
    frequencies /= frequencies.sum(axis=0)
    flow, normal = fit_glow(x, validation), fit_normal(*noisy[:2])
    densities = {
        "single pixels": np.log(np.take_along_axis(frequencies, noisy[2].astype(int), 0)).sum(1),
        "normal distribution": normal.logpdf(noisy[2]),
        "Glow": keras.ops.convert_to_numpy(flow.log_prob(test)),
    }
    for name, values in densities.items():
        print(f"{name}: {-values.mean() / 64 / np.log(2):.2f} bits per dimension")
    pixels = np.array([[random.choice(17, p=p) for p in frequencies.T] for _ in range(12)])
    rows = {"digits": test[:12], "single pixels": pixels}
    rows["normal distribution"] = normal.rvs(12, random_state=0)
    rows["Glow"] = keras.ops.convert_to_numpy(flow.sample(12, seed=0))
    folder = Path(__file__).parents[1] / "docs/images" if arguments.docs else arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    draw(rows).savefig(folder / "glow_digits.png", dpi=80)
