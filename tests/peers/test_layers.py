"""Layers with the same weights as those of zuko, nflows and normflows map to the same points.

`make test-peers` runs these, in an environment with those libraries. All is computed in float64.
"""

import math

import keras
import normflows
import numpy as np
import pytest
import torch
import zuko
from nflows import transforms
from torch import nn
from torch.distributions import AffineTransform

from gyoza.modelling import conditioners, flow_layers, masks

RANDOM = np.random.default_rng(0)
DIMENSIONS, CONTEXT, BATCH = 6, 3, 20
X = RANDOM.normal(size=[BATCH, DIMENSIONS])
C = RANDOM.normal(size=[BATCH, CONTEXT])
MASK = [1, 0, 0, 1, 0, 1]  # 1 is kept
DOUBLE = {"dtype": "float64"}


def fill(layer):
    """Sets the weights of a layer to random values, since many of a new layer are zero."""
    for weight in layer.trainable_weights:
        weight.assign(RANDOM.normal(size=weight.shape) / math.sqrt(weight.shape[0]))


def read(weight):
    return torch.tensor(keras.ops.convert_to_numpy(weight), dtype=torch.float64)


def set_parameters(module, **values):
    with torch.no_grad():
        for name, value in values.items():
            getattr(module, name).copy_(value)


def check(layer, inputs, outputs, log_det, *context, back=None):
    """Compares both directions of a layer with outputs and log-determinants of a peer."""
    received, received_log_det = layer(inputs, *context)
    inverse = layer.invert(received, *context)
    assert np.std(np.array(outputs) - inputs) > 0.1
    for value, expected in (
        (received, outputs),
        (received_log_det, log_det),
        (inverse, inputs if back is None else back),
    ):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(value), expected, atol=1e-9)


def make_dense(kernel, bias):
    dense = nn.Linear(*kernel.shape, dtype=torch.float64)
    set_parameters(dense, weight=kernel.T, bias=bias)
    return dense


def copy_mlp(mlp, parameter_count, shift=None):
    """Makes a network of PyTorch whose parameters of a dimension stand beside each other.

    Ours has all first parameters before all second ones. `shift` is added to what it returns.
    """
    *hidden, last = [(read(layer.kernel), read(layer.bias)) for layer in mlp.dense_layers]
    kernel, bias = (
        value.unflatten(-1, (parameter_count, -1)).transpose(-1, -2).flatten(-2) for value in last
    )
    layers = [layer for weights in hidden for layer in (make_dense(*weights), nn.Tanh())]
    return nn.Sequential(*layers, make_dense(kernel, bias + (0 if shift is None else shift)))


@pytest.mark.parametrize("context", [(), (C,)], ids=["plain", "conditional"])
def test_affine_coupling_is_that_of_zuko(context):
    mlp = conditioners.MLP([16, 8], "tanh", **DOUBLE)
    layer = flow_layers.AffineCoupling(
        conditioner=mlp, mask=masks.Mask([1], [DIMENSIONS], MASK), **DOUBLE
    )
    layer(X, *context)
    fill(layer)
    peer = zuko.flows.coupling.GeneralCouplingTransform(
        DIMENSIONS,
        CONTEXT * len(context),
        mask=torch.tensor(MASK, dtype=torch.bool),
        univariate=lambda raw, shift: AffineTransform(shift, torch.exp(2 * torch.tanh(raw / 2))),
    )
    peer.hyper = copy_mlp(mlp, 2)
    with torch.no_grad():
        transform = peer(*map(torch.tensor, context))
        outputs, log_det = transform.call_and_ladj(torch.tensor(X))
        back = transform.inv(outputs)
    check(layer, X, outputs, log_det, *context, back=back)


def test_spline_coupling_is_that_of_nflows():
    """Slopes of nflows are $m$ + softplus(p), where ours are 1 for a p of zero."""
    bins, minimum = 5, 1e-3
    mlp = conditioners.MLP([16, 8], "tanh", **DOUBLE)
    layer = flow_layers.RationalQuadraticSplineCoupling(
        conditioner=mlp,
        mask=masks.Mask([1], [DIMENSIONS], MASK),
        bin_count=bins,
        bound=2.0,
        **DOUBLE,
    )
    layer(X)
    fill(layer)
    slope = torch.full([bins - 1], math.log(math.expm1(1 - minimum)))
    shift = torch.cat([torch.zeros(2 * bins), slope]).tile(DIMENSIONS - sum(MASK))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = copy_mlp(mlp, 3 * bins - 1, shift)

        def forward(self, x, context):
            return self.layers(x)

    peer = transforms.PiecewiseRationalQuadraticCouplingTransform(
        [1 - kept for kept in MASK],
        lambda *_: Network(),
        num_bins=bins,
        tails="linear",
        tail_bound=2.0,
    )
    x = 1.5 * X
    assert np.mean(np.abs(x) > 2.0) > 0.1  # some are in the tails
    with torch.no_grad():
        outputs, log_det = peer(torch.tensor(x))
        back, _ = peer.inverse(outputs)
    check(layer, x, outputs, log_det, back=back)


@pytest.mark.parametrize("context", [(), (C,)], ids=["plain", "conditional"])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [3, 0, 5, 1, 4, 2]])
def test_masked_autoregressive_flow_is_that_of_zuko(order, context):
    made = conditioners.MADE([16, 8], "tanh", order=order, **DOUBLE)
    layer = flow_layers.MaskedAffine(conditioner=made, log_scale_bound=None, **DOUBLE)
    layer(X, *context)
    fill(layer)
    peer = zuko.flows.MaskedAutoregressiveTransform(
        DIMENSIONS,
        CONTEXT * len(context),
        order=torch.tensor(np.argsort(order)),  # zuko wants the place of each dimension
        univariate=lambda log_scale, shift: AffineTransform(shift, torch.exp(log_scale)),
        hidden_features=[16, 8],
        activation=nn.Tanh,
    ).double()
    # Which output sees which input is zuko's own; which hidden unit does so, is ours.
    inputs = torch.tensor(np.concatenate([X, *context], axis=1), requires_grad=True)
    structure = torch.autograd.functional.jacobian(peer.hyper, inputs[0]) != 0
    for ours, theirs in zip(made.dense_layers, list(peer.hyper)[::2], strict=True):
        mask, kernel = torch.tensor(ours.mask), read(ours.kernel)
        if ours.context_kernel is not None:
            mask = torch.cat([mask, torch.ones(CONTEXT, mask.shape[1])])
            kernel = torch.cat([kernel, read(ours.context_kernel)])
        set_parameters(theirs, mask=mask.T, weight=kernel.T, bias=read(ours.bias))
    assert torch.equal(torch.autograd.functional.jacobian(peer.hyper, inputs[0]) != 0, structure)
    with torch.no_grad():
        transform = peer(*map(torch.tensor, context))
        outputs, log_det = transform.call_and_ladj(torch.tensor(X))
        back = transform.inv(outputs)
    check(layer, X, outputs, log_det, *context, back=back)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_reflections_are_those_of_nflows(count):
    layer = flow_layers.Reflection(shape=[DIMENSIONS], reflection_count=count, **DOUBLE)
    fill(layer)
    peer = transforms.HouseholderSequence(DIMENSIONS, count).double()
    set_parameters(peer, q_vectors=read(layer._reflection_normals_))
    with torch.no_grad():
        outputs, log_det = peer(torch.tensor(X))
        back, _ = peer.inverse(outputs)
    check(layer, X, outputs, log_det, back=back)


@pytest.mark.parametrize("use_lu", [True, False])
def test_convolution_is_that_of_normflows(use_lu):
    """Its `inverse` is our `call`, its matrix stands on the left, and channels come first."""
    images = RANDOM.normal(size=[BATCH, 4, 5, DIMENSIONS])
    layer = flow_layers.InvertibleConvolution(shape=[DIMENSIONS], use_bias=False, **DOUBLE)
    fill(layer)
    peer = normflows.flows.Invertible1x1Conv(DIMENSIONS, use_lu=use_lu).double()
    if use_lu:
        # W = P L U for row vectors is Wᵀ = Uᵀ Lᵀ Pᵀ. Both libraries can take any P, L and U: ours
        # are taken from theirs.
        upper = torch.triu(peer.U, 1) + torch.diag(peer.sign_S * torch.exp(peer.log_S))
        matrix = (peer.P @ (torch.tril(peer.L, -1) + peer.eye) @ upper).T.detach()
        permutation, lower, upper = torch.linalg.lu(matrix)
        diagonal = torch.diag(upper)
        layer.permutation.assign(keras.ops.argmax(permutation.numpy(), axis=1))
        layer.signs.assign(torch.sign(diagonal).numpy())
        factors = torch.tril(lower, -1) + torch.triu(upper, 1) + torch.diag(diagonal.abs().log())
        layer.factors.assign(factors.numpy())
    else:
        set_parameters(peer, W=read(layer.matrix).T)
    with torch.no_grad():
        outputs, log_det = peer.inverse(torch.tensor(images).movedim(-1, 1))
        back, _ = peer(outputs)
    log_det = log_det.expand(BATCH)
    check(layer, images, outputs.movedim(1, -1), log_det, back=back.movedim(1, -1))
