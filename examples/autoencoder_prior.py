"""A flow as the prior of an autoencoder: its samples are nearer to digits than with a normal one.

A variational autoencoder is trained twice, with the same networks and different priors. Scores are
the bound on the log-likelihood of held-out digits, and how often a random forest tells samples from
reconstructions of these digits: half the time would be best.

    python examples/autoencoder_prior.py --output figures
"""

import argparse
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from gyoza import applications
from gyoza.modelling.autoencoders import VariationalAutoencoder

plt.switch_backend("Agg")  # draws into files and needs no display
SIZE = 8  # of latent vectors


def train(prior, x, validation):
    """Trains an autoencoder until the bound on validation data no longer rises."""
    inputs = keras.Input([64])
    hidden = keras.layers.Dense(256, "relu")(inputs)
    outputs = [keras.layers.Dense(SIZE)(hidden) for _ in range(2)]  # means, log-variances
    decoder = keras.Sequential([keras.layers.Dense(256, "relu"), keras.layers.Dense(64)])
    model = VariationalAutoencoder(keras.Model(inputs, outputs), decoder, prior)
    model.compile(keras.optimizers.Adam(2e-3), jit_compile=False)
    stopping = keras.callbacks.EarlyStopping(patience=10, restore_best_weights=True)
    options = {"batch_size": 100, "epochs": 150, "verbose": 0, "callbacks": [stopping]}
    model.fit(x, validation_data=(validation, None), **options)
    return model


def measure(model, test):
    """Computes the bound in nats, and the accuracy of the forest."""
    bound = np.mean(model.log_prob(test, sample_count=200, seed=0))
    pictures = [model.decode(model.encode(test)), model.sample(len(test), seed=0)]
    pictures = np.concatenate([keras.ops.convert_to_numpy(part) for part in pictures])
    forest = RandomForestClassifier(200, random_state=0)
    scores = cross_val_score(forest, pictures, np.arange(len(pictures)) < len(test), cv=5)
    return bound, scores.mean()


def draw(rows):
    """Draws rows of pictures, by name."""
    figure, axes = plt.subplots(len(rows), 12, figsize=(9, 2.4), layout="constrained")
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("autoencoder_prior_figures"))
    parser.add_argument("--docs", action="store_true", help="draw into docs/images instead")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    x = (load_digits().data / 16).astype("float32")
    x, validation, test = x[:1000], x[1000:1350], x[1350:]
    rows = {"digits": test[:12]}
    for name in ("normal prior", "flow as prior"):
        keras.utils.set_random_seed(arguments.seed)
        prior = applications.RealNVP(6, [64, 64]) if name == "flow as prior" else None
        model = train(prior, x, validation)
        bound, accuracy = measure(model, test)
        print(f"{name}: bound of {bound:.2f} nats, samples told apart in {accuracy:.0%} of cases")
        rows[name] = keras.ops.convert_to_numpy(model.sample(len(test), seed=0))[:12]
    folder = Path(__file__).parents[1] / "docs/images" if arguments.docs else arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    draw(rows).savefig(folder / "autoencoder_prior.png", dpi=80)
