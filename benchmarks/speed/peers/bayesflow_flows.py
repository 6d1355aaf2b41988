"""BayesFlow: its coupling flow as Keras layers on JAX, without anything to condition on."""

import bayesflow as bf
import jax
import keras
import numpy as np

from speed.cells import Cell, Work, make_batches
from speed.memory import get_counter
from speed.peers.jax_peers import make_likelihood_work

__all__ = ["PACKAGES", "make"]

PACKAGES = ["bayesflow", "keras", "jax"]
_TRANSFORM_OPTIONS = {"affine": {}, "spline": {"bins": 8, "default_domain": (-5, 5, -5, 5)}}


def make(cell: Cell, variant: str) -> Work | None:
    if cell.kind not in _TRANSFORM_OPTIONS:
        return None
    network = bf.networks.CouplingFlow(
        depth=cell.depth // 2,  # a layer of its consists of two couplings
        transform=cell.kind,
        permutation=None,
        use_actnorm=False,
        subnet_kwargs={
            "widths": cell.hidden,
            "activation": "relu",
            "residual": False,
            "dropout": None,
        },
        transform_kwargs=_TRANSFORM_OPTIONS[cell.kind],
    )
    network.build((None, *cell.shape))
    return _make_fitted(cell, network) if variant == "fit" else _make_jitted(cell, network)


def _make_jitted(cell: Cell, network: bf.networks.CouplingFlow) -> Work:
    params = [variable.value for variable in network.trainable_variables]
    others = [variable.value for variable in network.non_trainable_variables]

    def run(params: list, x: jax.Array, **options) -> tuple[jax.Array, jax.Array]:
        return network.stateless_call(params, others, x, density=True, **options)[0]

    def log_prob(params: list, batch: jax.Array) -> jax.Array:
        return run(params, batch)[1]

    def sample(params: list, key: jax.Array) -> jax.Array:
        z = jax.random.normal(key, (cell.batch, *cell.shape))
        return run(params, z, inverse=True)[0]

    return make_likelihood_work(cell, params, log_prob, sample)


def _make_fitted(cell: Cell, network: bf.networks.CouplingFlow) -> Work:
    approximator = bf.ContinuousApproximator(
        adapter=bf.Adapter(), inference_network=network, standardize=None
    )
    approximator.compile(optimizer=keras.optimizers.Adam(1e-3))

    batches = make_batches(cell)

    def train(steps: int) -> float:
        history = approximator.fit(dataset=_Batches(batches, steps), verbose=0)
        return history.history["loss"][-1]

    return Work(
        train,
        lambda: approximator.log_prob({"inference_variables": batches[0]}),
        lambda: approximator.sample(num_samples=cell.batch),
        network.count_params(),
        get_counter("jax"),
    )


class _Batches(keras.utils.PyDataset):
    """Returns batches in turn, as many as there are steps."""

    def __init__(self, batches: np.ndarray, steps: int):
        super().__init__()
        self._batches = batches
        self._steps = steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {"inference_variables": self._batches[index % len(self._batches)]}
