"""What the JAX libraries share: Adam steps and measurements around their functions."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from speed.cells import FREQUENCIES, Cell, Work, make_batches
from speed.memory import get_counter

__all__ = [
    "apply_mlp",
    "compute_normal_log_prob",
    "estimate_trace",
    "make_adaptive_work",
    "make_likelihood_work",
    "make_mlp",
    "make_reflections_work",
    "make_work",
    "run_velocity",
]


def make_likelihood_work(
    cell: Cell,
    params: Any,
    log_prob: Callable[[Any, jax.Array], jax.Array],
    sample: Callable[[Any, jax.Array], jax.Array],
) -> Work:
    """Makes work of flows that are trained by likelihood.

    Args:
        cell: The cell.
        params: See `make_work`.
        log_prob: Returns log-densities for parameters and a batch.
        sample: See `make_work`.

    Returns:
        See `make_work`.
    """
    return make_work(
        cell,
        params,
        lambda params, batch, key: -jnp.mean(log_prob(params, batch)),
        lambda params, batch, key: log_prob(params, batch),
        sample,
    )


def make_work(
    cell: Cell,
    params: Any,
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array],
    log_prob: Callable[[Any, jax.Array, jax.Array], jax.Array],
    sample: Callable[[Any, jax.Array], jax.Array],
) -> Work:
    """Makes work of pure functions.

    Args:
        cell: The cell.
        params: The trained arrays, in a tree.
        loss: Returns the loss for parameters, a batch and a random key.
        log_prob: Returns log-densities for parameters, a batch and a random key.
        sample: Returns a batch of samples for parameters and a random key.

    Returns:
        The work, each of its functions compiled as a whole.
    """
    optimizer = optax.adam(1e-3)
    batches = [jax.device_put(batch) for batch in make_batches(cell)]
    weight_count = _count(params)
    state = optimizer.init(params)
    first_key = key = jax.random.key(0)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, batch):
        used = jax.random.fold_in(first_key, state[0].count)
        value, gradients = jax.value_and_grad(loss)(params, batch, used)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def draw(params, key):
        key, used = jax.random.split(key)
        return sample(params, used), key

    compiled_log_prob = jax.jit(log_prob)

    def train(steps: int) -> jax.Array:
        nonlocal params, state
        for index in range(steps):
            params, state, value = step(params, state, batches[index % len(batches)])
        return jax.block_until_ready((value, params))[0]

    def draw_batch() -> jax.Array:
        nonlocal key
        samples, key = draw(params, key)
        return samples.block_until_ready()

    return Work(
        train,
        lambda: compiled_log_prob(params, batches[0], first_key).block_until_ready(),
        draw_batch,
        weight_count,
        get_counter("jax"),
    )


def make_reflections_work(
    cell: Cell,
    params: Any,
    forward: Callable[[Any, jax.Array], jax.Array],
    inverse: Callable[[Any, jax.Array], jax.Array],
) -> Work:
    """Makes work of reflections; `forward` and `inverse` take parameters and a batch."""
    batches = [jax.device_put(batch) for batch in make_batches(cell)]
    cotangents = batches[-1]

    @jax.jit
    def step(params, batch):
        outputs, pull_back = jax.vjp(forward, params, batch)
        return outputs, pull_back(cotangents)

    compiled_forward, compiled_inverse = jax.jit(forward), jax.jit(inverse)

    def train(steps: int) -> Any:
        for index in range(steps):
            result = step(params, batches[index % len(batches)])
        return jax.block_until_ready(result)

    return Work(
        train,
        lambda: compiled_forward(params, batches[0]).block_until_ready(),
        lambda: compiled_inverse(params, batches[0]).block_until_ready(),
        _count(params),
        get_counter("jax"),
    )


def make_adaptive_work(
    cell: Cell,
    params: Any,
    log_prob: Callable[[Any, jax.Array, jax.Array], jax.Array],
    sample: Callable[[Any, jax.Array], jax.Array],
) -> Work:
    """Makes work of a solver.

    Args:
        cell: The cell.
        params: The arrays that it needs, in a tree.
        log_prob: See `make_work`.
        sample: See `make_work`.

    Returns:
        The work, each of its functions compiled as a whole.
    """
    key = jax.random.key(0)
    batch = jax.device_put(make_batches(cell)[0])

    @jax.jit
    def draw(params, key):
        key, used = jax.random.split(key)
        return sample(params, used), key

    compiled_log_prob = jax.jit(log_prob)

    def draw_batches(count: int) -> None:
        nonlocal key
        for _ in range(count):
            samples, key = draw(params, key)
            samples.block_until_ready()

    return Work(draw_batches, lambda: compiled_log_prob(params, batch, key).block_until_ready())


def make_mlp(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Makes weights of dense layers, with the last ones small so that couplings start mild."""
    keys = jax.random.split(key, len(sizes) - 1)
    layers = []
    for index, (key, inputs, outputs) in enumerate(zip(keys, sizes, sizes[1:], strict=False)):
        bound = math.sqrt(6 / (inputs + outputs)) * (0.01 if index == len(sizes) - 2 else 1.0)
        kernel = jax.random.uniform(key, (inputs, outputs), minval=-bound, maxval=bound)
        layers.append({"kernel": kernel, "bias": jnp.zeros(outputs)})
    return layers


def apply_mlp(layers: Sequence[dict[str, jax.Array]], inputs: jax.Array) -> jax.Array:
    for layer in layers[:-1]:
        inputs = jax.nn.relu(inputs @ layer["kernel"] + layer["bias"])
    return inputs @ layers[-1]["kernel"] + layers[-1]["bias"]


def run_velocity(weights: Sequence[jax.Array], x: jax.Array, time: jax.Array) -> jax.Array:
    """Returns the velocities of points, `[batch, size]`, at times, a scalar or `[batch, 1]`."""
    time = jnp.broadcast_to(time, (len(x), 1))
    angles = time * FREQUENCIES
    x = jnp.concatenate([x, time, jnp.cos(angles), jnp.sin(angles)], axis=-1)
    *hidden, (kernel, bias) = zip(weights[::2], weights[1::2], strict=True)
    for index, (hidden_kernel, hidden_bias) in enumerate(hidden):
        outputs = jax.nn.silu(x @ hidden_kernel + hidden_bias)
        x = x + outputs if index else outputs
    return x @ kernel + bias


def estimate_trace(
    weights: Sequence[jax.Array], x: jax.Array, time: jax.Array, signs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns velocities, and estimates of the traces of their Jacobian matrices, `[batch]`."""
    velocity, pull_back = jax.vjp(lambda x: run_velocity(weights, x, time), x)
    return velocity, jnp.sum(pull_back(signs)[0] * signs, axis=-1)


def compute_normal_log_prob(x: jax.Array) -> jax.Array:
    """Returns the logarithm of the standard normal density, `[batch]`."""
    return -0.5 * jnp.sum(x**2 + math.log(2.0 * math.pi), axis=-1)


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
