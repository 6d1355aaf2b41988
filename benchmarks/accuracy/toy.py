"""The Kullback-Leibler divergence of each flow from each toy density, in nats.

It is the negative log-likelihood less the entropy, estimated by the mean difference of
log-densities at the same points, which has the smaller error of the two estimates.
"""

import functools

import keras

from gyoza import applications, data
from gyoza.modelling import flow_layers

from .common import choose, to_numpy, train, write_table

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


@functools.cache  # since the part `continuous` asks for some of them again
def measure(name, density):
    """Trains a flow on a toy density.

    Returns:
        The model, the seconds of training, and differences of log-densities at test points.
    """
    make, learning_rate, steps, *batch_size = FLOWS[name]
    keras.utils.set_random_seed(0)
    model = make()
    x = density.sample(100_000, seed=0).astype("float32")
    seconds = train(model, x, steps, learning_rate, *batch_size)
    test = density.sample(20_000, seed=1)
    return model, seconds, density.log_prob(test) - to_numpy(model.log_prob(test))


def run(_, words):
    """Measures the divergence of each flow from each toy density."""
    rows, errors = [], []
    for name in choose(FLOWS, words):
        cells = []
        for density in DENSITIES.values():
            _, seconds, gaps = measure(name, density)
            cells.append(f"{gaps.mean():.3f}")
            errors.append(gaps.std() / len(gaps) ** 0.5)
            print(f"{name}: {cells[-1]} in {seconds:.0f} s", flush=True)
        rows.append([name, *cells])
    note = f"Divergences in nats; standard errors are at most {max(errors):.3f}."
    write_table("toy", ["flow", *DENSITIES], rows, note, words)
