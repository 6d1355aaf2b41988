"""Products of a matrix and the vectors at all positions of a tensor."""

from keras import ops

from gyoza.typing import Tensor

__all__ = ["multiply"]


def multiply(vectors: Tensor, matrix: Tensor) -> Tensor:
    """Multiplies the vectors along the last axis by a matrix.

    This is `vectors @ matrix`, as a product of two matrices. From a product with more axes, XLA
    computes the gradient with respect to the matrix by a transposed copy, which takes longer than
    the product.

    Args:
        vectors: A tensor, `[..., size]`.
        matrix: A tensor of the same dtype, `[size, new_size]`.

    Returns:
        A tensor, `[..., new_size]`.
    """
    # The operator keeps float64, which `ops.matmul` would round to float32 on PyTorch.
    products = ops.reshape(vectors, (-1, vectors.shape[-1])) @ matrix
    return ops.reshape(products, (*ops.shape(vectors)[:-1], matrix.shape[-1]))
