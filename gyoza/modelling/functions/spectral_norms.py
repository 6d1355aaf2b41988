"""Spectral norms of matrices, bounded from above."""

from keras import ops

from gyoza.typing import Tensor

__all__ = ["bound_spectral_norm"]


def bound_spectral_norm(matrix: Tensor, squarings: int = 6) -> Tensor:
    r"""Bounds the spectral norm of a matrix from above.

    .. math::
        \lVert W \rVert_2 \le \lVert (W W^T)^{2^k} \rVert_F^{1 / 2^{k + 1}} \le
        n^{1 / 2^{k + 2}} \lVert W \rVert_2,

    where :math:`n` is the smaller of the two dimensions. With :math:`k = 6` squarings the bound is
    at most 1.7% too large for :math:`n = 64`, and 2.7% for 1024. Power iteration costs less for
    large matrices, but it approaches the norm from below, and promises nothing.

    Args:
        matrix: The matrix, in float32 or float64.
        squarings: The number of squarings, :math:`k`.

    Returns:
        The bound, `[]`. It can be differentiated.

    Example:

        >>> from gyoza.modelling.functions import bound_spectral_norm
        >>> float(bound_spectral_norm(keras.ops.diag(keras.ops.array([3.0, 2.0])))).__round__(4)
        3.0
    """
    transposed = ops.transpose(matrix)
    is_wide = matrix.shape[0] < matrix.shape[1]
    gram = matrix @ transposed if is_wide else transposed @ matrix
    # Keeps the logarithm finite for a matrix of zeros, and the bound a bound.
    gram = gram + 1e-12 * ops.eye(gram.shape[0], dtype=gram.dtype)
    log_bound: Tensor = 0.0
    for k in range(squarings):
        norm = _frobenius_norm(gram)
        log_bound = log_bound + ops.log(norm) / 2 ** (k + 1)
        gram = gram / norm
        gram = gram @ gram
    return ops.exp(log_bound + ops.log(_frobenius_norm(gram)) / 2 ** (squarings + 1))


def _frobenius_norm(matrix: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(matrix * matrix))
