"""Transforms: inverses and log-derivatives, and that layers take any of them."""

import doctest

import keras
import numpy as np
import pytest
import scipy.special
import scipy.stats
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

import gyoza
from gyoza.backend import jit, vjp
from gyoza.modelling import transforms
from gyoza.modelling.conditioners import MADE, MLP
from gyoza.modelling.flow_layers import (
    AdditiveCoupling,
    AffineCoupling,
    CircularSplineCoupling,
    Coupling,
    Elementwise,
    ElementwiseCoupling,
    MaskedAffine,
    MaskedAutoregressive,
    MaskedRationalQuadraticSpline,
    MixtureGaussianization,
    MixtureLogisticCoupling,
    VolumePreservingCoupling,
)
from gyoza.modelling.functions import circular_spline, rational_quadratic_spline
from gyoza.modelling.functions.dtypes import at_least_float32
from gyoza.modelling.transforms import Transform


@keras.saving.register_keras_serializable(package="gyoza_tests")
class SinhArcsinh(Transform):
    r"""A transform of a user's own, :math:`\sinh(e^{s(a)} \operatorname{arsinh}(x) + b)`."""

    parameter_count = 2

    def __init__(self, bound=1.0):
        self.bound = bound

    def _read(self, parameters):
        parameters = ops.cast(parameters, at_least_float32(parameters.dtype))
        log_tail = self.bound * (2.0 * ops.sigmoid(parameters[..., 0]) - 1.0)
        return log_tail, parameters[..., 1]

    def forward(self, x, parameters):
        log_tail, skew = self._read(parameters)
        exact = ops.cast(x, log_tail.dtype)
        y = ops.sinh(ops.exp(log_tail) * ops.arcsinh(exact) + skew)
        log_derivative = log_tail + 0.5 * (ops.log(1.0 + y * y) - ops.log(1.0 + exact * exact))
        return ops.cast(y, x.dtype), log_derivative

    def inverse(self, y, parameters):
        log_tail, skew = self._read(parameters)
        exact = ops.cast(y, log_tail.dtype)
        return ops.cast(ops.sinh((ops.arcsinh(exact) - skew) * ops.exp(-log_tail)), y.dtype)

    def get_config(self):
        return {**super().get_config(), "bound": self.bound}


CASES = {
    "additive": transforms.AdditiveTransform(),
    "affine": transforms.AffineTransform(0.8),
    "affine-unbounded": transforms.AffineTransform(None),
    "volume-preserving": transforms.VolumePreservingTransform(),
    "spline": transforms.RationalQuadraticTransform(4, 3.0, minimum_slope=0.1),
    "circular": transforms.CircularSplineTransform(3),
    "logistic": transforms.LogisticMixtureTransform(3),
    "gaussianization": transforms.GaussianizationTransform(3),
    "user": SinhArcsinh(0.7),
}


@pytest.mark.parametrize("name", CASES)
def test_inverses_and_log_derivatives(name):
    transform = CASES[name]
    random = np.random.default_rng(0)
    x = ops.convert_to_tensor(2.0 * random.normal(size=(20, 3)), dtype="float32")
    parameters = 0.7 * random.normal(size=(20, 3, transform.parameter_count))
    parameters = ops.convert_to_tensor(parameters, dtype="float32")

    @jit
    def run(x, parameters):
        y, pullback = vjp(lambda x: transform.forward(x, parameters)[0], [x])
        (slopes,) = pullback(ops.ones_like(y))
        log_derivative = transform.forward(x, parameters)[1]
        inverse = transform.inverse_and_log_derivative(y, parameters)
        return y, slopes, log_derivative, inverse, transform.inverse(y, parameters)

    y, slopes, log_derivative, (inputs, at_inputs), again = run(x, parameters)
    slopes = np.log(to_numpy(slopes))
    assert np.std(slopes) > 0.05 or name == "additive"
    if transform.preserves_volume:
        assert log_derivative is at_inputs is None
        np.testing.assert_allclose(slopes.sum(axis=-1), 0.0, atol=1e-5)
    else:
        np.testing.assert_allclose(to_numpy(log_derivative), slopes, atol=1e-4)
        np.testing.assert_allclose(to_numpy(at_inputs), slopes, atol=2e-3)
    assert np.abs(to_numpy(y) - to_numpy(x)).max() > 0.1
    for received in (inputs, again):
        np.testing.assert_allclose(to_numpy(received), to_numpy(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_copies_are_equal(name):
    transform = CASES[name]
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(transform))
    assert type(copy) is type(transform)
    assert vars(copy) == vars(transform)


# Eager operations are compiled one by one on JAX.
run_eagerly = pytest.mark.compiled_by()


def draw_in_float64(transform):
    """Draws numbers and parameters, as arrays and as tensors."""
    random = np.random.default_rng(0)
    arrays = random.normal(size=(6, 4)), random.normal(size=(6, 4, transform.parameter_count))
    return *arrays, *(ops.convert_to_tensor(array, dtype="float64") for array in arrays)


@run_eagerly
@pytest.mark.parametrize("cls", [transforms.AffineTransform, transforms.VolumePreservingTransform])
@pytest.mark.parametrize("options", [{}, {"log_scale_bound": None}, {"log_scale_bound": 0.8}])
def test_affine_transforms_follow_their_formulas(cls, options):
    """To the last digits of float64. The bound is 2 by default."""
    transform = cls(**options)
    x, parameters, *tensors = draw_in_float64(transform)
    raw, shifts = np.moveaxis(parameters, -1, 0)
    bound = options.get("log_scale_bound", 2.0)
    log_scales = raw if bound is None else bound * np.tanh(raw / bound)
    if transform.preserves_volume:
        log_scales = log_scales - log_scales.mean(axis=-1, keepdims=True)
    y, log_derivative = transform.forward(*tensors)
    np.testing.assert_allclose(to_numpy(y), x * np.exp(log_scales) + shifts, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(
        to_numpy(transform.compute_log_scales(tensors[1])), log_scales, rtol=1e-12, atol=1e-14
    )
    assert transform.preserves_volume == (log_derivative is None)
    np.testing.assert_allclose(
        to_numpy(transform.inverse(*tensors)), (x - shifts) * np.exp(-log_scales), rtol=1e-12
    )


@run_eagerly
@pytest.mark.parametrize("component_count", [1, 3])
def test_logistic_mixtures_follow_their_formula(component_count):
    """To nearly all digits of float64; components lie between -0.4 and 0.4 at first."""
    transform = transforms.LogisticMixtureTransform(component_count, 0.8, 0.4)
    x, parameters, *tensors = draw_in_float64(transform)
    logits, locations, raw = np.split(parameters[..., 2:], 3, axis=-1)
    log_scale, *log_scales = (0.8 * np.tanh(r / 0.8) for r in (parameters[..., 0], raw))
    offsets = [-0.4, 0.0, 0.4] if component_count == 3 else [0.0]
    z = (x[..., None] - locations - offsets) * np.exp(-log_scales[0])
    f = np.sum(scipy.special.softmax(logits, axis=-1) * scipy.special.expit(z), axis=-1)
    y, _ = transform.forward(*tensors)
    expected = scipy.special.logit(f) * np.exp(log_scale) + parameters[..., 1]
    np.testing.assert_allclose(to_numpy(y), expected, rtol=1e-10, atol=1e-12)


@run_eagerly
def test_gaussianization_follows_its_formula():
    transform = transforms.GaussianizationTransform(2)
    x, parameters, *tensors = draw_in_float64(transform)
    logits, locations, log_scales = np.split(parameters, 3, axis=-1)
    z = (x[..., None] - locations) * np.exp(-log_scales)
    f = np.sum(scipy.special.softmax(logits, axis=-1) * scipy.special.expit(z), axis=-1)
    y, _ = transform.forward(*tensors)
    np.testing.assert_allclose(to_numpy(y), scipy.stats.norm.ppf(f), rtol=1e-10, atol=1e-12)


@run_eagerly
@pytest.mark.parametrize(
    ("cls", "spline"),
    [
        (transforms.RationalQuadraticTransform, rational_quadratic_spline),
        (transforms.CircularSplineTransform, circular_spline),
    ],
)
def test_splines_are_those_of_the_functions(cls, spline):
    """With all options, and parameters in the order of widths, heights and slopes."""
    names = "bound", "minimum_bin_width", "minimum_bin_height", "minimum_slope"
    options = dict(zip(names, (1.5, 0.1, 0.07, 0.3), strict=True))
    transform = cls(3, *options.values())
    x, parameters, *tensors = draw_in_float64(transform)
    parts = np.split(3.0 * parameters, [3, 6], axis=-1)
    arguments = [ops.convert_to_tensor(array, dtype="float64") for array in (x, *parts)]
    for run, inverse in ((transform.forward, False), (transform.inverse_and_log_derivative, True)):
        received = run(tensors[0], 3.0 * tensors[1])
        expected = spline(*arguments, **options, inverse=inverse)
        np.testing.assert_allclose(to_numpy(received[0]), to_numpy(expected[0]), rtol=1e-12)
        sign = -1.0 if inverse else 1.0
        np.testing.assert_allclose(to_numpy(received[1]), sign * to_numpy(expected[1]), rtol=1e-9)


@run_eagerly
@pytest.mark.parametrize("name", [name for name in CASES if name != "user"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 0.02), ("float64", 1e-9)])
def test_numbers_keep_their_dtype_and_its_digits(name, dtype, tolerance):
    """Log-derivatives are in float32 at least."""
    transform = CASES[name]
    x, parameters = (ops.cast(tensor, dtype) for tensor in draw_in_float64(transform)[2:])
    parameters = 0.3 * parameters
    y, log_derivative = transform.forward(x, parameters)
    inputs, at_inputs = transform.inverse_and_log_derivative(y, parameters)
    for values in (y, inputs, transform.inverse(y, parameters)):
        assert keras.backend.standardize_dtype(values.dtype) == dtype
    np.testing.assert_allclose(to_numpy(inputs), to_numpy(x), rtol=tolerance, atol=tolerance)
    if not transform.preserves_volume:
        for values in (log_derivative, at_inputs):
            assert keras.backend.standardize_dtype(values.dtype) == at_least_float32(dtype)


@pytest.mark.parametrize(
    "name", ["additive", "affine", "volume-preserving", "spline", "circular", "user"]
)
def test_parameters_of_zero_make_the_identity(name):
    transform = CASES[name]
    x = ops.convert_to_tensor([[-7.0, 0.0, 0.5, 2.0]], dtype="float32")
    y, log_derivative = transform.forward(x, ops.zeros((1, 4, transform.parameter_count)))
    np.testing.assert_allclose(to_numpy(y), to_numpy(x), rtol=1e-5)
    if log_derivative is not None:
        np.testing.assert_allclose(to_numpy(log_derivative), 0.0, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name != "user"])
def test_integers_are_rejected_instead_of_truncated(name):
    transform = CASES[name]
    x = ops.convert_to_tensor([1, 2], "int32")
    parameters = ops.ones((2, transform.parameter_count))
    for run in (transform.forward, transform.inverse, transform.inverse_and_log_derivative):
        with pytest.raises(TypeError, match=r"floating-point numbers. Received: dtype=int32"):
            run(x, parameters)


@pytest.mark.parametrize("name", transforms.__all__)
def test_examples_run_on_every_backend(name):
    (test,) = doctest.DocTestFinder(recurse=False).find(
        getattr(transforms, name), name, globs={"gyoza": gyoza, "keras": keras, "np": np}
    )
    assert test.examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    report = []
    runner.run(test, out=report.append)
    assert not report, "".join(report)


def test_a_new_transform_is_used_in_couplings(check_contract):
    layer = ElementwiseCoupling(conditioner=MLP([8], "tanh"), transformer=SinhArcsinh(0.5))
    # On JAX, `keras.ops.sinh` rounds float64 to float32.
    policies = ["float64"] if keras.backend.backend() != "jax" else []
    check_contract(layer, [5], policies=[*policies, "float32", "mixed_float16", "mixed_bfloat16"])
    layer(np.ones([2, 5], "float32"))
    assert layer.conditioner.output_size == 2 * 2
    assert not layer.preserves_volume


def test_a_new_transform_is_used_in_autoregressive_layers(check_contract):
    layer = MaskedAutoregressive(conditioner=MADE([8], "tanh"), transformer=SinhArcsinh())
    check_contract(layer, [3], policies=())
    copy = MaskedAutoregressive.from_config(layer.get_config())
    assert copy.transformer.bound == 1.0


def test_a_new_transform_is_used_where_a_coupling_meets_one_dimension():
    layer = ElementwiseCoupling(conditioner=MLP([8]), transformer=SinhArcsinh())
    layer(np.ones([2, 1], "float32"))
    assert tuple(layer.coupling_parameters.shape) == (2,)
    layer.coupling_parameters.assign([1.0, 0.5])
    x = np.array([[0.3], [-2.0]], "float32")
    outputs, log_det = layer(x)
    expected, log_derivative = layer.transformer.forward(
        ops.convert_to_tensor(x), ops.convert_to_tensor(np.full([2, 1, 2], [1.0, 0.5], "float32"))
    )
    np.testing.assert_allclose(to_numpy(outputs), to_numpy(expected), rtol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det), to_numpy(log_derivative)[:, 0], rtol=1e-5)


@pytest.mark.parametrize("name", ["additive", "volume-preserving", "gaussianization", "logistic"])
def test_any_transform_can_be_given_to_a_coupling(name):
    transform = CASES[name]
    layer = Coupling(conditioner=MLP([4], "tanh"), transformer=transform)
    assert type(layer) is ElementwiseCoupling
    assert type(Coupling.from_config(layer.get_config()).transformer) is type(transform)
    x = np.random.default_rng(0).normal(size=(4, 4)).astype("float32")
    layer(x)
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * random.normal(size=weight.shape))
    outputs, log_det = layer(x)
    assert np.abs(to_numpy(outputs) - x).max() > 0.05
    assert (np.std(to_numpy(log_det)) > 0) == (not transform.preserves_volume)
    assert layer.preserves_volume == transform.preserves_volume
    assert layer.recomputable == transform.recomputable
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x, atol=1e-3)


@pytest.mark.parametrize("name", ["spline", "user", "volume-preserving"])
def test_any_transform_can_be_applied_with_weights(name, check_contract):
    transform = CASES[name]
    layer = Elementwise(transformer=transform)
    check_contract(layer, [3, 2], is_further_layout=name != "spline")
    copy = Elementwise.from_config(layer.get_config())
    assert copy.transformer.get_config() == transform.get_config()
    assert layer.preserves_volume == transform.preserves_volume


class DoublesAfterwards(Elementwise):
    def transform(self, inputs):
        outputs, _ = super().transform(inputs)
        return 2.0 * outputs, ops.full(ops.shape(inputs)[:-1], self.dimension_count * np.log(2.0))


def test_a_subclass_that_overrides_transform_says_itself_whether_it_preserves_volume():
    layer = DoublesAfterwards(transformer=transforms.AdditiveTransform())
    assert not layer.preserves_volume
    x = np.ones([2, 3], "float32")
    for log_det in (layer(x)[1], layer.log_det(x), layer.compute_jacobian_determinant(x)):
        np.testing.assert_allclose(to_numpy(log_det), 3.0 * np.log(2.0), rtol=1e-6)


def test_weights_of_a_transform_are_those_of_its_dimensions():
    layer = Elementwise(axes=[2], transformer=transforms.AffineTransform(None), shape=[2])
    layer.transform_parameters.assign([[np.log(2.0), 1.0], [0.0, -1.0]])
    outputs, log_det = layer(np.array([[[1.0, 3.0], [0.5, 0.0], [0.0, 1.0]]], "float32"))
    np.testing.assert_allclose(to_numpy(outputs), [[[3.0, 2.0], [2.0, -1.0], [1.0, 0.0]]])
    np.testing.assert_allclose(to_numpy(log_det), [3.0 * np.log(2.0)], rtol=1e-6)


def test_an_autoregressive_layer_can_shift():
    layer = MaskedAutoregressive(transformer=transforms.AdditiveTransform(), conditioner=MADE([8]))
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    layer(x)
    random = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(random.normal(size=weight.shape))
    outputs, log_det = layer(x)
    shifts = to_numpy(layer.conditioner(x))[..., 0]
    np.testing.assert_allclose(to_numpy(outputs), x + shifts, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(to_numpy(log_det), 0.0)
    np.testing.assert_allclose(to_numpy(layer.invert(outputs)), x, atol=1e-5)


def test_configurations_hold_options_or_a_transform():
    options = AffineCoupling(conditioner=MLP(), log_scale_bound=0.3).get_config()
    assert options["log_scale_bound"] == 0.3
    assert "transformer" not in options
    assert "conditioner" not in options
    assert "transformer" not in AdditiveCoupling(conditioner=MLP()).get_config()
    assert "transformer" not in MaskedAffine().get_config()
    given = ElementwiseCoupling(conditioner=MLP(), transformer=SinhArcsinh(0.3)).get_config()
    assert given["transformer"]["config"] == {"bound": 0.3}


@pytest.mark.parametrize(
    "cls",
    [
        AdditiveCoupling,
        AffineCoupling,
        CircularSplineCoupling,
        MixtureLogisticCoupling,
        VolumePreservingCoupling,
        MaskedAffine,
        MaskedRationalQuadraticSpline,
        MixtureGaussianization,
    ],
)
def test_layers_with_a_transform_of_their_own_take_no_other(cls):
    # It would not be part of their configuration.
    conditioner = {"conditioner": MLP()} if issubclass(cls, ElementwiseCoupling) else {}
    assert cls(**conditioner).transformer is not None
    with pytest.raises(TypeError, match="'transformer'"):
        cls(**conditioner, transformer=SinhArcsinh())


@keras.saving.register_keras_serializable(package="gyoza_tests")
class FixedTransform(MaskedAutoregressive):
    """A layer as `docs/writing_a_layer.md` shows it."""

    def __init__(self, bound=3.0, **kwargs):
        super().__init__(transformer=SinhArcsinh(bound), **kwargs)
        self.bound = bound

    def get_config(self):
        config = super().get_config()
        del config["transformer"]
        return {**config, "bound": self.bound}


def test_a_subclass_can_fix_its_transform():
    copy = keras.layers.deserialize(keras.layers.serialize(FixedTransform(0.4, name="fixed")))
    assert (copy.name, copy.bound, copy.transformer.bound) == ("fixed", 0.4, 0.4)


def test_configurations_may_hold_objects_and_lack_what_has_a_default():
    transform, made, mlp = SinhArcsinh(), MADE([8]), MLP([4])
    layer = MaskedAutoregressive.from_config({"transformer": transform, "conditioner": made})
    assert layer.transformer is transform
    assert layer.conditioner is made
    assert isinstance(MaskedAffine.from_config({"log_scale_bound": 0.7}).conditioner, MADE)
    assert Elementwise.from_config({"transformer": transform}).transformer is transform
    layer = ElementwiseCoupling.from_config({"transformer": transform, "conditioner": mlp})
    assert layer.transformer is transform
    assert layer.conditioner is mlp
    with pytest.raises(TypeError, match="`transformer` should be a `Transform`"):
        Elementwise.from_config({"shape": [3]})


class OverridesAll(MaskedAutoregressive):
    def call(self, inputs, context=None):
        return inputs, ops.zeros(ops.shape(inputs)[:1])

    def invert(self, outputs, context=None):
        return outputs


def test_a_layer_that_overrides_call_needs_no_transform():
    assert OverridesAll().transformer is None


class DoubledLogScales(AffineCoupling):
    def compute_log_scales(self, coupling_parameters):
        return 2.0 * super().compute_log_scales(coupling_parameters)


class OtherContributions(MixtureLogisticCoupling):
    def compute_log_stretch(self, inputs, coupling_parameters):
        return super().compute_log_stretch(inputs, coupling_parameters) + 1.0


class ShiftedTwice(VolumePreservingCoupling):
    def _couple_and_stretch_(self, inputs, coupling_parameters):
        outputs, log_derivative = super()._couple_and_stretch_(inputs, coupling_parameters)
        return outputs + coupling_parameters[..., 1], log_derivative


def shift_and_scale(x):
    return ops.stack([0.1 + 0.0 * x, 3.0 + 0.0 * x, *8 * [0.0 * x]][: shift_and_scale.count], -1)


@pytest.mark.parametrize(
    ("cls", "count", "options", "expected"),
    [
        (DoubledLogScales, 2, {"log_scale_bound": None}, [2.0 * np.exp(0.2) + 3.0, 0.2]),
        (OtherContributions, 5, {"component_count": 1, "log_scale_bound": None}, [None, 1.1]),
        (ShiftedTwice, 2, {}, [2.0 + 6.0, 0.0]),
    ],
)
def test_subclasses_can_replace_one_hook(cls, count, options, expected, monkeypatch):
    monkeypatch.setattr(shift_and_scale, "count", count, raising=False)
    layer = cls(conditioner=shift_and_scale, **options)
    outputs, log_det = layer(np.array([[2.0, 1.0]], "float32"))
    if expected[0] is not None:
        np.testing.assert_allclose(to_numpy(outputs), [[expected[0], 1.0]], rtol=1e-5)
    np.testing.assert_allclose(to_numpy(log_det), [expected[1]], rtol=1e-5, atol=1e-6)


def test_options_of_layers_are_those_of_their_transforms():
    layer = AffineCoupling(conditioner=MLP(), log_scale_bound=0.3)
    assert layer.log_scale_bound == 0.3
    layer.log_scale_bound = 0.5
    assert layer.get_config()["log_scale_bound"] == layer.transformer.log_scale_bound == 0.5
    with pytest.raises(ValueError, match=r"`log_scale_bound`.*Received: log_scale_bound=-1"):
        layer.log_scale_bound = -1
    assert layer.log_scale_bound == 0.5


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (MaskedRationalQuadraticSpline(bin_count=4), "bin_count"),
        (MixtureLogisticCoupling(conditioner=MLP(), component_count=4), "component_count"),
    ],
)
def test_the_number_of_parameters_of_a_layer_stays(layer, name):
    count = layer.parameter_count
    with pytest.raises(ValueError, match=f"`{name}` should be given to the con.*{name}=5"):
        setattr(layer, name, 5)
    setattr(layer, name, 4)
    assert (layer.parameter_count, getattr(layer, name)) == (count, 4)


class CouplingByHooks(Coupling):
    def _couple_(self, inputs, coupling_parameters):
        return inputs


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan, "1", None])
def test_bad_scales(value):
    with pytest.raises(ValueError, match=r"^`location_spread` should.*s would.*: location_spread="):
        transforms.LogisticMixtureTransform(location_spread=value)
    if value is not None:
        with pytest.raises(ValueError, match=r"`log_scale_bound`.*Received: log_scale_bound="):
            transforms.AffineTransform(value)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ElementwiseCoupling(conditioner=MLP(), transformer=3),
            TypeError,
            "`transformer` should be a `Transform`. Received: transformer=3",
        ),
        (
            lambda: Coupling(conditioner=MLP(), transformer="affine"),
            TypeError,
            "`transformer` should be a `Transform`. Received: transformer=affine",
        ),
        (
            lambda: CouplingByHooks(conditioner=MLP(), transformer=transforms.AffineTransform()),
            TypeError,
            "^CouplingByHooks has a transform of its own.*Received: transformer=",
        ),
        (
            Elementwise,
            TypeError,
            "`transformer` should be a `Transform`. Received: transformer=None",
        ),
        (
            lambda: MaskedAutoregressive(transformer=transforms.VolumePreservingTransform()),
            ValueError,
            "should transform each dimension by its own parameters. Received: transformer=",
        ),
        (
            lambda: AdditiveCoupling(conditioner=MLP(), compute_coupling_parameters=MLP()),
            ValueError,
            "not as both. Received: conditioner=",
        ),
        (
            lambda: ElementwiseCoupling(conditioner=MLP()),
            NotImplementedError,
            "should implement `_couple_`, or be given a `transformer`",
        ),
        (
            MaskedAutoregressive,
            NotImplementedError,
            "MaskedAutoregressive should implement `_couple_`, or be given a `transformer`",
        ),
        (
            lambda: transforms.LogisticMixtureTransform(0),
            ValueError,
            "^`component_count` should be an integer of at least 1. Received: component_count=0",
        ),
        (
            lambda: transforms.GaussianizationTransform(1),
            ValueError,
            "^`component_count` should be an integer of at least 2. Received: component_count=1",
        ),
        (
            lambda: Transform().forward(1.0, 1.0),
            NotImplementedError,
            "Transform should implement `forward`",
        ),
        (
            lambda: Transform().inverse(1.0, 1.0),
            NotImplementedError,
            "Transform should implement `inverse`",
        ),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
