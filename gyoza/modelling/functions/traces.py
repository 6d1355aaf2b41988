"""Products of vectors and Jacobian matrices, and traces by them, exact and estimated."""

import math
from collections.abc import Callable, Sequence

import keras
from keras import ops

from gyoza.backend import vjp
from gyoza.typing import Tensor

__all__ = ["compute_products", "compute_quadratic_forms", "make_units"]


def compute_products(
    function: Callable[..., Tensor], x: Tensor, vectors: Tensor, others: Sequence[Tensor] = ()
) -> tuple[Tensor, Tensor]:
    r"""Computes :math:`f(x)` and :math:`J^\top v_k` for the Jacobian matrix :math:`J` of `f`.

    With all unit vectors, these are the rows of the matrix.

    Args:
        function: The function :math:`f` of `x` and of the tensors in `others`, row by row. It
            returns a tensor of the shape of `x`.
        x: Where it is evaluated, `[batch, ...]`.
        vectors: The vectors, `[vectors, batch, ...]`.
        others: Further arguments, `[batch, ...]`, by which it is not differentiated.

    Returns:
        The pair of :math:`f(x)`, in the shape of `x`, and the products, `[vectors, batch, ...]`.

    Example:

        >>> from gyoza.modelling.functions import compute_products, make_units
        >>> x = keras.ops.array([[1.0, 2.0]])
        >>> squares, products = compute_products(lambda x: x * x, x, make_units(x))
        >>> keras.ops.convert_to_numpy(products)
        array([[[2., 0.]],
        <BLANKLINE>
               [[0., 4.]]], dtype=float32)
    """
    if keras.backend.backend() != "tensorflow":
        outputs, pull_back = vjp(lambda x: function(x, *others), [x])
        vectors = ops.cast(vectors, outputs.dtype)
        return outputs, ops.vectorized_map(lambda vector: pull_back(vector)[0], vectors)
    # There, such a map takes several times as long to trace as copies of the rows.
    count, batch_size = vectors.shape[0], ops.shape(x)[0]

    def copy(part: Tensor) -> Tensor:
        batch_size, *shape = ops.shape(part)
        copies = ops.broadcast_to(part, (count, batch_size, *shape))
        return ops.reshape(copies, (count * batch_size, *shape))

    x, *others = map(copy, (x, *others))
    outputs, pull_back = vjp(lambda x: function(x, *others), [x])
    (products,) = pull_back(ops.reshape(ops.cast(vectors, outputs.dtype), ops.shape(outputs)))
    return outputs[:batch_size], ops.reshape(products, ops.shape(vectors))


def compute_quadratic_forms(products: Tensor, vectors: Tensor) -> Tensor:
    r"""Computes :math:`v_k^\top J v_k` from what :func:`compute_products` returns.

    With all unit vectors, their sum over :math:`k` is the trace of :math:`J`. With random vectors
    of mean zero and unit covariance, their mean is an unbiased estimate of it (Hutchinson 1989).

    Args:
        products: The products :math:`J^\top v_k`, `[vectors, batch, ...]`.
        vectors: The vectors :math:`v_k`, in the same shape.

    Returns:
        The forms, `[vectors, batch]`.

    Example:

        >>> from gyoza.modelling.functions import (
        ...     compute_products, compute_quadratic_forms, make_units
        ... )
        >>> x = keras.ops.array([[1.0, 2.0]])
        >>> _, products = compute_products(lambda x: x * x, x, make_units(x))
        >>> keras.ops.convert_to_numpy(compute_quadratic_forms(products, make_units(x)))
        array([[2.],
               [4.]], dtype=float32)

    References:
        - Hutchinson, M. F. (1989). "A stochastic estimator of the trace of the influence matrix for
          Laplacian smoothing splines." Communications in Statistics 18(3), 1059-1076.
        - Grathwohl, W. et al. (2019). "FFJORD: Free-form continuous dynamics for scalable
          reversible generative models." `arXiv:1810.01367 <https://arxiv.org/abs/1810.01367>`_
    """
    terms = products * ops.cast(vectors, products.dtype)
    return ops.sum(terms, axis=tuple(range(2, len(terms.shape))))


def make_units(x: Tensor) -> Tensor:
    """Returns all unit vectors for each row of `x`, `[batch, ...]`: `[dimensions, batch, ...]`."""
    shape = tuple(x.shape[1:])
    units = ops.reshape(ops.eye(math.prod(shape), dtype=x.dtype), (-1, 1, *shape))
    return ops.broadcast_to(units, (math.prod(shape), *ops.shape(x)))
