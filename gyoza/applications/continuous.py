"""Flows in continuous time."""

from collections.abc import Callable, Iterable
from typing import Any

from gyoza.applications.building import in_dtype
from gyoza.modelling.conditioners import VelocityMLP
from gyoza.modelling.flow_layers import (
    ContinuousFlow,
    FlowLayer,
    FlowMatchingModel,
    FlowModel,
    PrincipalRotation,
    Standardize,
)
from gyoza.typing import Tensor

__all__ = ["FlowMatching", "FFJORD"]


@in_dtype
def FlowMatching(
    hidden_sizes: Iterable[int] = (128, 128, 128),
    activation: str | Callable[..., Tensor] = "silu",
    frequency_count: int = 4,
    point_frequency_count: int = 4,
    flow_layers: Iterable[FlowLayer] | None = None,
    **kwargs: Any,
) -> FlowMatchingModel:
    """A flow in continuous time whose velocity is regressed on that of paths to the data.

    A step of training takes one pass of a network, whatever the number of dimensions, so that large
    batches, of 1000 and more, and thousands of steps are affordable. They are what the fit needs:
    an Adam optimiser with a learning rate that falls from 1e-2 to zero as a cosine suits tables.

    Args:
        hidden_sizes: The numbers of units of the hidden layers of the velocity.
        activation: Their activation, which should be smooth, by name or as a function.
        frequency_count: The number of frequencies in which the velocity sees the time.
        point_frequency_count: The number of frequencies in which it sees the point; see
            :class:`~gyoza.modelling.conditioners.VelocityMLP`.
        flow_layers: Layers from data to what the velocity sees. If omitted, `adapt` sets them so
            that this is uncorrelated, with a variance of one: directions in which data hardly vary
            are hard to learn otherwise.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowMatchingModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If a number is out of range.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 4]).astype("float32")
        >>> model = gyoza.applications.FlowMatching(hidden_sizes=[16])
        >>> model.adapt(x)
        >>> model.compile(keras.optimizers.Adam(1e-2))
        >>> history = model.fit(x, verbose=0)
        >>> tuple(model.log_prob(x).shape)
        (256,)

    References:
        - Lipman, Y., Chen, R. T. Q., Ben-Hamu, H., Nickel, M. & Le, M. (2023). "Flow matching for
          generative modeling." `arXiv:2210.02747 <https://arxiv.org/abs/2210.02747>`_
    """
    velocity = VelocityMLP(hidden_sizes, activation, frequency_count, point_frequency_count)
    layers = _whiten() if flow_layers is None else flow_layers
    return FlowMatchingModel(velocity, layers, **kwargs)


@in_dtype
def FFJORD(
    hidden_sizes: Iterable[int] = (64, 64, 64),
    activation: str | Callable[..., Tensor] = "silu",
    frequency_count: int = 4,
    solver: str = "rk4",
    step_count: int = 8,
    exact_limit: int = 32,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    kinetic: float = 0.0,
    jacobian: float = 0.0,
    **kwargs: Any,
) -> FlowModel:
    """A flow in continuous time that is trained by likelihood, on data made uncorrelated.

    A step of training solves the differential equation, which runs the network `4 step_count`
    times, and differentiates it along each dimension, or along one random vector beyond
    `exact_limit` dimensions. :func:`FlowMatching` takes far less time for a step; likelihood needs
    fewer steps. An Adam optimiser with a learning rate that falls from 5e-3 to zero as a cosine
    suits tables, and one that falls from 2e-3 longer trainings, in which velocities can become too
    rough for the steps of the solver; see
    :meth:`~gyoza.modelling.flow_layers.FlowModel.check_steps`.

    Args:
        hidden_sizes: The numbers of units of the hidden layers of the velocity.
        activation: Their activation, which should be smooth, by name or as a function.
        frequency_count: The number of frequencies in which the velocity sees the time.
        solver: The solver; see :class:`~gyoza.modelling.flow_layers.ContinuousFlow`.
        step_count: The number of its steps.
        exact_limit: The largest number of dimensions along each of which the network is
            differentiated. Densities are random beyond.
        rtol: The relative tolerance of the solver `"dopri5"`.
        atol: Its absolute tolerance.
        kinetic: The weight of a penalty in training that makes paths straight; see
            :class:`~gyoza.modelling.flow_layers.ContinuousFlow`.
        jacobian: The weight of a penalty on the derivatives of the velocity; see there.
        **kwargs: Arguments of :class:`~gyoza.modelling.flow_layers.FlowModel`.

    Returns:
        The model, for vectors `[batch, dimensions]`.

    Raises:
        ValueError: If a number is out of range, or there is no such solver.

    Example:

        >>> x = np.random.default_rng(0).normal(size=[256, 2]).astype("float32")
        >>> model = gyoza.applications.FFJORD(hidden_sizes=[16])
        >>> model.adapt(x)
        >>> model.compile(keras.optimizers.Adam(5e-3))
        >>> history = model.fit(x, verbose=0)
        >>> tuple(model.log_prob(x).shape)
        (256,)

    References:
        - Grathwohl, W. et al. (2019). "FFJORD: Free-form continuous dynamics for scalable
          reversible generative models." `arXiv:1810.01367 <https://arxiv.org/abs/1810.01367>`_
    """
    flow = ContinuousFlow(
        VelocityMLP(hidden_sizes, activation, frequency_count),
        solver=solver,
        step_count=step_count,
        exact_limit=exact_limit,
        rtol=rtol,
        atol=atol,
        kinetic=kinetic,
        jacobian=jacobian,
    )
    return FlowModel([*_whiten(), flow], **kwargs)


def _whiten() -> list[FlowLayer]:
    """Returns layers that `adapt` makes map data to uncorrelated ones with a variance of one."""
    return [Standardize(), PrincipalRotation(), Standardize()]
