"""Traces of Jacobian matrices, exact and estimated."""

import math
from collections.abc import Callable
from typing import Any

from keras import ops

from gyoza.backend import vjp
from gyoza.typing import Tensor

__all__ = ["compute_quadratic_forms", "make_units"]


def compute_quadratic_forms(
    function: Callable[[Any], Any], x: Tensor, vectors: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Computes :math:`f(x)` and :math:`v_k^\top J v_k` for the Jacobian matrix :math:`J` of `f`.

    With all unit vectors, their sum over :math:`k` is the trace of :math:`J`. With random vectors
    of mean zero and unit covariance, their mean is an unbiased estimate of it (Hutchinson 1989).

    Args:
        function: The function :math:`f`, of a tensor `[vectors * batch, ...]`: row by row, and
            copies of all rows follow each other. It returns a tensor of the same shape.
        x: Where it is evaluated, `[batch, ...]`.
        vectors: The vectors, `[vectors, batch, ...]`.

    Returns:
        The pair of :math:`f(x)`, in the shape of `x`, and the forms, `[vectors, batch]`.

    Example:

        >>> from gyoza.modelling.functions import compute_quadratic_forms, make_units
        >>> x = keras.ops.array([[1.0, 2.0]])
        >>> squares, forms = compute_quadratic_forms(lambda x: x * x, x, make_units(x))
        >>> keras.ops.convert_to_numpy(forms)
        array([[2.],
               [4.]], dtype=float32)

    References:
        - Hutchinson, M. F. (1989). "A stochastic estimator of the trace of the influence matrix for
          Laplacian smoothing splines." Communications in Statistics 18(3), 1059-1076.
        - Grathwohl, W. et al. (2019). "FFJORD: Free-form continuous dynamics for scalable
          reversible generative models." `arXiv:1810.01367 <https://arxiv.org/abs/1810.01367>`_
    """
    count, shape = vectors.shape[0], ops.shape(x)
    copies = ops.reshape(ops.broadcast_to(x, (count, *shape)), (-1, *shape[1:]))
    outputs, pull_back = vjp(function, [copies])
    cotangents = ops.reshape(ops.cast(vectors, outputs.dtype), ops.shape(copies))
    (products,) = pull_back(cotangents)
    forms = ops.reshape(products * cotangents, (count, shape[0], -1))
    return outputs[: shape[0]], ops.sum(forms, axis=-1)


def make_units(x: Tensor) -> Tensor:
    """Returns all unit vectors for each row of `x`, `[batch, ...]`: `[dimensions, batch, ...]`."""
    shape = tuple(x.shape[1:])
    units = ops.reshape(ops.eye(math.prod(shape), dtype=x.dtype), (-1, 1, *shape))
    return ops.broadcast_to(units, (math.prod(shape), *ops.shape(x)))
