"""Nonlinear independent component analysis: find two hidden causes in ten mixed measurements.

Two independent causes have different means and variances in each of five groups. A random network,
about which nothing is known except that it is invertible, mixes them with eight dimensions of faint
noise into ten measurements. A flow learns to undo this from measurements and groups alone: within a
group, its latent dimensions should be independent and normal. As the groups differ in mean and
variance, causes can be recovered up to their order, shift, scale and sign; without groups, there
would be infinitely many other solutions. As the flow preserves volume and starts from principal
components, what is faint stays faint: its latent space has two wide dimensions and eight narrow
ones. With seeds 0, 1 and 2, the mean correlation of the wide ones with the causes is 0.983, 0.907
and 0.996. That of principal components is 0.934, 0.867 and 0.978, that of linear ICA 0.993, 0.731
and 0.712.

    python examples/independent_components.py --output figures

It follows the artificial data of Sorrenson et al., and takes about two minutes on two cores.

References:
    - Sorrenson, P., Rother, C. & Köthe, U. (2020). "Disentanglement by nonlinear ICA with general
      incompressible-flow networks (GIN)." `arXiv:2001.04872 <https://arxiv.org/abs/2001.04872>`_
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.decomposition import PCA, FastICA

from gyoza.modelling.conditioners import MLP
from gyoza.modelling.distributions import GaussianMixture
from gyoza.modelling.flow_layers import (
    AffineCoupling,
    FlowModel,
    Orthogonal,
    ShufflePermutation,
    VolumePreservingCoupling,
)
from gyoza.modelling.metrics import mean_correlation_coefficient
from gyoza.plotting import latent_scatter, training_curves

plt.switch_backend("Agg")  # draws into files and needs no display

# Five groups are the fewest that identify two causes, and they have to differ enough.
MEANS = np.array([[0.0, 4.0], [4.0, -2.0], [2.0, 0.0], [-4.0, -4.0], [-2.0, 2.0]])
DEVIATIONS = np.array([[0.3, 1.25], [0.75, 0.75], [1.25, 0.3], [2.0, 0.5], [0.5, 2.0]])
(GROUP_COUNT, CAUSE_COUNT), NOISE_COUNT = MEANS.shape, 8
DIMENSION_COUNT = CAUSE_COUNT + NOISE_COUNT
NOISE_DEVIATION = 0.05
TRAINING_COUNT, HELD_OUT_COUNT = 50_000, 10_000

BLOCK_COUNT = 8
HIDDEN_SIZES = [64, 64]
BATCH_SIZE = 500
EPOCH_COUNT = 40
LEARNING_RATE = 5e-3


# ---------------------------------------------------------------------------------------- the data


def draw_hidden(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws causes and noise, of shape [count, 10], and groups, of shape [count]."""
    groups = rng.integers(GROUP_COUNT, size=count)
    causes = MEANS[groups] + DEVIATIONS[groups] * rng.normal(size=(count, CAUSE_COUNT))
    noise = NOISE_DEVIATION * rng.normal(size=(count, NOISE_COUNT))
    return np.concatenate([causes, noise], axis=1).astype("float32"), groups


def make_mixer(rng: np.random.Generator) -> FlowModel:
    """Makes the network that mixes: rotations and affine couplings with random weights."""
    blocks = [Orthogonal()]
    for _ in range(BLOCK_COUNT):
        network = MLP(HIDDEN_SIZES, activation="tanh")
        coupling = AffineCoupling(conditioner=network, log_scale_bound=0.5)
        blocks += [coupling, Orthogonal()]
    mixer = FlowModel(blocks)
    mixer.build([None, DIMENSION_COUNT])
    for weight in mixer.trainable_variables:
        weight.assign(rng.normal(scale=(3 * weight.shape[0]) ** -0.5, size=weight.shape))
    return mixer


# ---------------------------------------------------------------------------------------- the flow


def make_flow(x: np.ndarray, groups: np.ndarray, seed: int) -> FlowModel:
    """Makes a flow that preserves volume, with a normal distribution at each group's place."""
    blocks = []
    for block in range(BLOCK_COUNT):
        network = MLP(HIDDEN_SIZES, activation="tanh")
        coupling = VolumePreservingCoupling(conditioner=network)
        blocks += [ShufflePermutation(seed=seed + block), coupling]
    rotation = Orthogonal([DIMENSION_COUNT])
    # Two equal reflections cancel, so that the rotation starts as the identity.
    normals = keras.ops.convert_to_numpy(rotation._reflection_normals_)
    rotation._reflection_normals_.assign(np.repeat(normals[::2], 2, axis=0))
    base = GaussianMixture(component_count=1, class_count=GROUP_COUNT)
    flow = FlowModel([*blocks, rotation], base_distribution=base)
    # Initially, the flow only permutes dimensions.
    z = apply(flow, x)
    members = [z[groups == group] for group in range(GROUP_COUNT)]
    base.location.assign([[part.mean(axis=0)] for part in members])
    base.log_scale.assign([[np.log(part.std(axis=0))] for part in members])
    return flow


def apply(flow: FlowModel, x: np.ndarray) -> np.ndarray:
    return keras.ops.convert_to_numpy(flow(x)[0])


def train(flow: FlowModel, x: np.ndarray, groups: np.ndarray, held_out: tuple) -> dict:
    """Maximises the likelihood given the groups, with a learning rate that decays to zero."""
    step_count = EPOCH_COUNT * TRAINING_COUNT // BATCH_SIZE
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, step_count)
    flow.compile(keras.optimizers.Adam(schedule, clipnorm=10.0))
    arguments = {"batch_size": BATCH_SIZE, "epochs": EPOCH_COUNT, "verbose": 2}
    return flow.fit(x, groups, validation_data=held_out, **arguments).history


# -------------------------------------------------------------------------------------- the report


def print_table(codes: dict[str, np.ndarray], causes: np.ndarray, widths: np.ndarray) -> None:
    """Prints how well causes were found, and the spectrum of latent space."""
    print(f"\n{'Two components by':28}{'correlation with the causes (MCC)':>36}")
    for name, components in codes.items():
        print(f"{name:28}{mean_correlation_coefficient(components, causes):36.3f}")
    print("\nStandard deviations of latent dimensions")
    print("  " + " ".join(f"{width:.3f}" for width in widths))


def draw(z, causes, groups, widths, history, optimum: float) -> plt.Figure:
    """Draws the causes, those that were found, the spectrum and the training."""
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6), dpi=72, layout="constrained")
    shown = slice(1500)
    titles = "Causes", "Widest latent dimensions"
    for panel, points, title in zip(axes, (causes, z), titles, strict=False):
        latent_scatter(points[shown], groups[shown], factor_name="group", ax=panel, s=3)
        panel.set_title(title)
    axes[2].bar(np.arange(1, 1 + len(widths)), widths, color="#0072b2")
    axes[2].axhline(NOISE_DEVIATION, color="black", ls="--", label="noise in the data")
    axes[2].set(title="Spectrum", xlabel="latent dimension", ylabel="standard deviation")
    axes[2].set_yscale("log")
    axes[2].legend()
    training_curves(history, {"entropy of the data": optimum}, ax=axes[3])
    bounds = optimum - 0.3, optimum + 4
    axes[3].set(title="Training", ylabel="negative log-likelihood / nats", ylim=bounds)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("independent_components_figures"))
    parser.add_argument("--seed", type=int, default=0, help="the seed")
    parser.add_argument("--docs", action="store_true", help="draw into docs/images, too")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)

    mixer = make_mixer(rng)
    hidden, groups = draw_hidden(TRAINING_COUNT, rng)
    test_hidden, test_groups = draw_hidden(HELD_OUT_COUNT, rng)
    measured, test_measured = apply(mixer, hidden), apply(mixer, test_hidden)
    principal = PCA(DIMENSION_COUNT).fit(measured)
    x, test_x = principal.transform(measured), principal.transform(test_measured)

    flow = make_flow(x, groups, arguments.seed)
    history = train(flow, x, groups, (test_x, test_groups))
    z = apply(flow, test_x)
    order = np.argsort(-z.std(axis=0))
    z, widths = z[:, order], z.std(axis=0)[order]

    log_widths = np.log(DEVIATIONS).sum(axis=1).mean() + NOISE_COUNT * np.log(NOISE_DEVIATION)
    log_det = keras.ops.convert_to_numpy(mixer(test_hidden)[1]).mean()
    optimum = log_widths + DIMENSION_COUNT / 2 * np.log(2 * np.pi * np.e) + log_det
    print(f"\nNegative log-likelihood of held-out data: {history['val_loss'][-1]:.3f} nats")
    print(f"Entropy, which no model can come below:   {optimum:.3f} nats")

    causes = test_hidden[:, :CAUSE_COUNT]
    codes = {
        "principal components": test_x[:, :CAUSE_COUNT],
        "linear ICA": FastICA(CAUSE_COUNT, random_state=0).fit(x).transform(test_x),
        "the flow's widest dimensions": z[:, :CAUSE_COUNT],
    }
    print_table(codes, causes, widths)
    figure = draw(z, causes, test_groups, widths, history, optimum)
    path = arguments.output / "independent_components.png"
    figure.savefig(path)
    if arguments.docs:
        figure.savefig(Path(__file__).resolve().parents[1] / "docs" / "images" / path.name)
    print(f"\nThe figure is {path}")


if __name__ == "__main__":
    main()
