"""Diagonal matrices, and systems of equations with triangular ones."""

from keras import ops

from gyoza.backend import has_slow_substitution
from gyoza.typing import Tensor

__all__ = ["create_diagonal", "solve_triangle"]


def create_diagonal(values: Tensor) -> Tensor:
    """Creates a diagonal matrix, like `keras.ops.diag`, whose shape is known in compiled code.

    On TensorFlow, Keras 3.12 forgets it, which XLA and some operations then miss.

    Args:
        values: The diagonal, `[size]`.

    Returns:
        The matrix, `[size, size]`.
    """
    return ops.where(ops.eye(values.shape[0], dtype="bool"), values, 0.0)


def solve_triangle(matrix: Tensor, right: Tensor, lower: bool) -> Tensor:
    r"""Solves `matrix @ x = right`, like `keras.ops.solve_triangular`, but faster where possible.

    Where solving for one row after the other takes long, the matrix is inverted, block by block:
    from the inverses of blocks on the diagonal, of size 1 at first, those of blocks twice as large
    are computed, all at once,

    .. math::
        \begin{pmatrix} A & 0 \\ B & C \end{pmatrix}^{-1} =
        \begin{pmatrix} A^{-1} & 0 \\ -C^{-1} B A^{-1} & C^{-1} \end{pmatrix}.

    Args:
        matrix: A triangular matrix without zeros on its diagonal, `[size, size]`.
        right: The right-hand sides as columns, `[size, count]`.
        lower: Whether the entries above the diagonal are zero, and not those below.

    Returns:
        The solutions, `[size, count]`.

    References:
        - Higham, N. J. (2002). Accuracy and Stability of Numerical Algorithms, chapter 14.
    """
    if not has_slow_substitution(matrix.shape[0]):
        return ops.solve_triangular(matrix, right, lower=lower)
    if lower:
        return _invert(matrix) @ right
    return ops.transpose(_invert(ops.transpose(matrix))) @ right


def _invert(matrix: Tensor) -> Tensor:
    """Inverts a lower triangular matrix."""
    size = matrix.shape[0]
    step_count = (size - 1).bit_length()
    missing = 2**step_count - size
    matrix = ops.pad(matrix, [[0, missing], [0, missing]])
    diagonal = ops.diagonal(matrix) + ops.cast(ops.arange(size + missing) >= size, matrix.dtype)
    blocks = 1 / ops.reshape(diagonal, (-1, 1, 1))
    for step in range(step_count):
        count, width = 2 ** (step_count - step - 1), 2**step
        pairs = ops.reshape(matrix, (count, 2, width, count, 2, width))[:, 1, :, :, 0]
        corners = ops.moveaxis(ops.diagonal(pairs, axis1=0, axis2=2), -1, 0)
        first, second = blocks[::2], blocks[1::2]
        above = ops.concatenate([first, ops.zeros_like(first)], axis=2)
        below = ops.concatenate([-second @ corners @ first, second], axis=2)
        blocks = ops.concatenate([above, below], axis=1)
    return blocks[0, :size, :size]
