"""Arguments that matter can be passed first, without their names, and are shown by `repr`."""

import numpy as np
import pytest

from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.flow_layers import (
    ActivationNormalization,
    AdditiveCoupling,
    AffineCoupling,
    Elementwise,
    FlowModel,
    MaskedAffine,
    Permutation,
    RationalQuadraticSplineCoupling,
    Reflection,
)
from gyoza.modelling.masks import CheckerBoardMask
from gyoza.modelling.transforms import AffineTransform

COUPLINGS = [AdditiveCoupling, AffineCoupling, RationalQuadraticSplineCoupling]


@pytest.mark.parametrize("kind", COUPLINGS)
def test_network_and_mask_come_first(kind):
    network, mask = MLP([8]), CheckerBoardMask()
    for layer in (kind(network, mask), kind(network, mask=mask), kind(None, mask, network)):
        assert layer.conditioner is network
        assert layer._mask_ is mask
        assert (layer._shape_, layer._axes_) == (None, None)
    assert kind([4], [1], network)._shape_ == [4]


def test_other_layers_know_their_arguments():
    network, transform = MADE([8]), AffineTransform()
    assert MaskedAffine(network).conditioner is network
    assert Elementwise(transform).transformer is transform
    for count in (8, np.int64(8)):
        assert Reflection(count).reflection_count == 8
    assert Reflection(4, [1])._axes_ == [1]
    for order in ([2, 0, 1], (2, 0, 1), np.array([2, 0, 1])):
        layer = Permutation(order)
        assert (layer.permutation, layer._shape_) == ([2, 0, 1], [3])
    assert Permutation([1, 0], axes=[2])._shape_ is None


def test_what_is_given_twice_is_rejected():
    for make in (
        lambda: AffineCoupling(MLP([8]), compute_coupling_parameters=MLP([8])),
        lambda: MaskedAffine(MADE([8]), conditioner=MADE([8])),
        lambda: Elementwise(AffineTransform(), transformer=AffineTransform()),
        lambda: Reflection(8, reflection_count=2),
    ):
        with pytest.raises(TypeError, match="`shape` should be a list of integers"):
            make()
    with pytest.raises(ValueError, match="`conditioner` or as `compute_coupling_parameters`"):
        AffineCoupling(MLP([8]), conditioner=MLP([8]))
    with pytest.raises(ValueError, match="`shape` should hold positive lengths"):
        Permutation([1, 0], permutation=[1, 0])


def test_repr_shows_what_defines_layers_and_models():
    assert repr(ActivationNormalization(axes=[3])) == "ActivationNormalization(axes=[3])"
    flow = FlowModel([AffineCoupling(MLP([8, 8])), FlowModel([Reflection(4), Reflection()])])
    assert repr(flow).splitlines() == [
        "FlowModel([",
        "    AffineCoupling(compute_coupling_parameters=MLP([8, 8])),",
        "    FlowModel([",
        "        Reflection(reflection_count=4),",
        "        Reflection(),",
        "    ]),",
        "])",
    ]
    assert repr(FlowModel()) == "FlowModel([])"
    assert repr(Reflection.__new__(Reflection)) == "<Reflection>"  # not initialised
