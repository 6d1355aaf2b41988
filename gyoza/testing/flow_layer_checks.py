"""The contract of a flow layer, as a check that any layer can be put to."""

import inspect
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from keras import ops
from keras.ops import convert_to_numpy as to_numpy

from gyoza.backend import jit, vjp
from gyoza.modelling.flow_layers import FlowLayer, FlowModel
from gyoza.modelling.flow_layers.invertible import Invertible
from gyoza.modelling.flow_layers.recomputation import can_be_recomputed
from gyoza.modelling.functions.checks import check_instance, check_integers
from gyoza.testing.checked_layer import CheckedLayer
from gyoza.testing.copies import copy_layer, make_symbolic, to_lists
from gyoza.testing.fresh_process import find_fault, load_and_run
from gyoza.testing.functions import (
    RUNS_EAGERLY,
    call_and_forget,
    compile_on_jax,
    differentiate,
    has_float64,
    there_and_back,
)
from gyoza.typing import Tensor

__all__ = ["check_flow_layer"]

_POLICIES = ("float32", "float64", "mixed_float16", "mixed_bfloat16")
_TOLERANCES = {"float64": 1e-6, "float32": 2e-4, "float16": 3e-2, "bfloat16": 3e-1}


def check_flow_layer(
    layer: FlowLayer,
    input_shape: Sequence[int],
    *,
    inputs: Tensor | None = None,
    context: Tensor | None = None,
    policies: Iterable[str] = _POLICIES,
    tolerance: float = 1e-5,
    fresh_process: bool = True,
    seed: int = 0,
) -> None:
    """Checks that a layer fulfils the contract of flow layers.

    All weights of a copy of the layer are moved away from their initial values, because many layers
    start as the identity and show no error there. Then these are checked:

    - shapes and dtypes of outputs and log-determinants, for batches of several sizes,
    - that instances of a batch do not influence each other,
    - the log-determinants against the Jacobian matrix by automatic differentiation,
    - the round trip through `invert`, in both directions, and `invert_and_log_det`,
    - that each trainable weight, and a context, has a gradient, and all gradients are finite,
    - that gradients of `invert` are those of the inverse function,
    - that gradients are the same in a memory-efficient model, unless the layer is stored there,
    - that eager, compiled (for TensorFlow by XLA, too) and symbolic execution agree,
    - that `from_config(get_config())` and a saved model, loaded by another process without custom
      objects, give an equal layer,
    - that it works under other dtype policies,
    - that integer inputs are rejected, or returned unchanged by a layer that moves any dtype.

    Where a layer solves an equation by steps, as a
    :class:`~gyoza.modelling.flow_layers.ContinuousFlow` does, results may also be apart by ten
    times what steps half as long change.

    Args:
        layer: The layer, of a class registered with Keras. It is not changed, only copied.
        input_shape: Shape of one instance, without the batch axis.
        inputs: Inputs that the layer is defined for, `[batch, *input_shape]` with at least 2
            instances. Standard normal if omitted.
        context: A context for each of the inputs, `[batch, ...]`, to check that a layer can be
            conditional. None if omitted.
        policies: Names of the dtype policies under which the layer shall work. On JAX, float64 is
            left out unless it is enabled.
        tolerance: How far, relative to the largest absolute value, results in float32 that should
            be equal may be apart.
        fresh_process: Whether to load a saved model in another process. Classes must not be defined
            in a script that is run itself (`__main__`) or in a function then. If not, it is only
            looked up whether the class is registered.
        seed: Seed for inputs and weights.

    Raises:
        AssertionError: If the layer breaks the contract, its steps are too long to tell, or its
            log-determinants are estimated. The message says in what way, with the numbers, and
            where to look.

    Example:

        >>> from gyoza.modelling.flow_layers import ActivationNormalization
        >>> gyoza.testing.check_flow_layer(
        ...     ActivationNormalization(), input_shape=[3], fresh_process=False
        ... )
    """
    check_instance("layer", layer, Invertible, "a `FlowLayer` or a `FlowModel`")
    input_shape = check_integers("input_shape", input_shape)
    random = np.random.default_rng(seed)
    if inputs is None:
        inputs = random.normal(size=(4, *input_shape))
    inputs = np.asarray(inputs, "float32")
    contexts = [] if context is None else [np.asarray(context, "float32")]
    check = _Check(layer, inputs, contexts, tolerance, seed)
    check.configuration()
    check.results()
    check.batches()
    check.copy_and_jacobian()
    check.round_trip()
    check.gradients()
    check.compilation()
    check.symbolic()
    check.registration(fresh_process)
    if fresh_process:
        check.saving()
    for policy in policies:
        check.policy(policy)
    check.integer_inputs()


class _Check(CheckedLayer):
    """What can be checked, one after the other."""

    def results(self) -> None:
        outputs, log_det = self.call(self.layer)
        for what, array, dtype in (
            ("outputs", outputs, self.layer.compute_dtype),
            ("log-determinants", log_det, self.layer.log_det_dtype),
        ):
            received = keras.backend.standardize_dtype(array.dtype)
            if received != dtype:
                self.fail(f"The {what} of `call` should have dtype {dtype}. Received: {received}")
        if self.log_det.shape != self.inputs.shape[:1]:
            self.fail(
                "The log-determinants of `call` should have shape [batch], "
                f"{self.inputs.shape[:1]}. Received: {self.log_det.shape}. Sum the contributions "
                "of all axes but the first; `sum_log_det` does."
            )
        if self.outputs[0].size != self.inputs[0].size:
            self.fail(
                "The outputs should have as many elements as the inputs. Received: "
                f"{self.outputs.shape} for inputs of shape {self.inputs.shape}"
            )
        moved = np.any(np.abs(self.outputs.ravel() - self.inputs.ravel()) > self.tolerance)
        if self.layer.trainable_weights and not moved:
            self.fail(
                "With random weights the layer should not be the identity: `call` does not use "
                "what the constructor or `create_weights` made."
            )
        self.compare(
            "`compute_jacobian_determinant` should return the log-determinants of `call`",
            self.log_det,
            self.layer.compute_jacobian_determinant(self.inputs, *self.contexts),
        )

    def batches(self) -> None:
        # A compiled function is there anyway, but TensorFlow would trace it for each batch size.
        run = there_and_back(self.layer) if RUNS_EAGERLY else self.compiled
        for which, chosen in (
            ("of a single instance", slice(1, 2)),
            ("of a batch in reverse order", slice(None, None, -1)),
        ):
            outputs, log_det, inverse = run(*self.tensors(self.inputs, chosen))
            what = f"{which} should be as in the batch of {len(self.inputs)} instances"
            self.compare(f"The outputs {what}", self.outputs[chosen], outputs)
            self.compare(f"The log-determinants {what}", self.log_det[chosen], log_det)
            what = f"`invert(call(x)[0])` should be `x`, here {which}"
            self.compare(what, self.inputs[chosen], inverse, 2e-4)

    def copy_and_jacobian(self) -> None:
        dtype = "float64" if has_float64() else "float32"
        layer = copy_layer(self.layer, dtype, like=(self.inputs, *self.contexts))
        batch, count = len(self.inputs), self.inputs[0].size

        # One batch holds the inputs once for each row of the Jacobian matrices.
        def compute_rows(inputs: Tensor, units: Tensor, *contexts: Tensor) -> Tensor:
            outputs, pullback = vjp(lambda x: layer(x, *contexts)[0], [inputs])
            return outputs, layer(inputs, *contexts)[1], pullback(ops.cast(units, outputs.dtype))[0]

        units = np.repeat(np.eye(count), batch, axis=0).reshape(-1, *self.outputs.shape[1:])
        inputs, *contexts = (np.concatenate([x] * count) for x in (self.inputs, *self.contexts))
        arrays = (ops.convert_to_tensor(x, dtype=dtype) for x in (inputs, units, *contexts))
        results = map(to_numpy, compile_on_jax(compute_rows)(*arrays))
        outputs, log_det, rows = (x.reshape(count, batch, *x.shape[1:]) for x in results)
        self.compare(
            "A copy by `from_config(get_config())` and `set_weights` should give equal outputs: "
            "what is not a weight must stand in `get_config`",
            self.outputs,
            outputs[0],
            max(self.tolerance, _TOLERANCES["float32"]),
        )
        jacobian = np.moveaxis(rows.reshape(count, batch, count), 1, 0)
        self.compare(
            "The log-determinants should be those of the Jacobian matrix by automatic "
            "differentiation: check their formula in `transform` or `call`, and its sign",
            np.linalg.slogdet(jacobian.astype("float64"))[1],
            log_det[0],
            _TOLERANCES[dtype],
        )

    def round_trip(self) -> None:
        inverse = self.layer.invert(self.outputs, *self.contexts)
        self.compare("`invert(call(x)[0])` should be `x`", self.inputs, inverse)
        outputs, log_det = self.layer(inverse, *self.contexts)
        self.compare("`call(invert(y))[0]` should be `y`", self.outputs, outputs)
        self.compare(
            "`call(invert(y))[1]` should be the log-determinants at `y`",
            self.log_det,
            log_det,
            10 * self.tolerance,
        )
        inverse, log_det = compile_on_jax(self.layer.invert_and_log_det)(
            *self.tensors(self.outputs)
        )
        self.compare("`invert_and_log_det(y)[0]` should be `invert(y)`", self.inputs, inverse)
        self.compare(
            "`invert_and_log_det(y)[1]` should be the log-determinants of `call`",
            self.log_det,
            log_det,
            10 * self.tolerance,
        )

    def gradients(self) -> None:
        weights = self.layer.trainable_weights
        names = ["inputs", *("the context" for _ in self.contexts)]
        names = [*names, *(f"weight '{weight.path}'" for weight in weights)]
        draws = (
            self.random.normal(size=x.shape) for x in (self.outputs, self.log_det, self.inputs)
        )
        *of_call, of_inverse = (ops.convert_to_tensor(x, dtype="float32") for x in draws)
        values = [weight.value for weight in weights]
        pull_back, results = {}, {}
        for method, function, inputs, cotangents in (
            ("call", self.layer, self.inputs, of_call),
            ("recompute", call_and_forget(self.layer), self.inputs, of_call),
            ("invert", self.layer.invert, self.outputs, [of_inverse]),
        ):
            if method == "recompute" and not can_be_recomputed(self.layer):
                continue
            pull_back[method] = compile_on_jax(differentiate(function, weights))
            gradients = pull_back[method](cotangents, *self.tensors(inputs), *values)
            results[method] = list(map(to_numpy, gradients))
            for name, gradient in zip(names, results[method], strict=True):
                if not np.all(np.isfinite(gradient)):
                    self.fail(
                        f"The gradient of `{method}` with respect to {name} should be finite. Look "
                        "for a division, logarithm or root in a branch that is not selected."
                    )
                if method == "call" and gradient.size and not np.any(gradient):
                    self.fail(
                        f"The gradient of `call` with respect to {name} should not vanish: neither "
                        "outputs nor log-determinants depend on it."
                    )
        recomputed = results.get("recompute", results["call"])
        for name, expected, received in zip(names, results["call"], recomputed, strict=True):
            self.compare(
                f"The gradient with respect to {name} should be the same in a memory-efficient "
                "model: check `invert` and `recompute`, or set `recomputable` to False",
                expected,
                received,
                100 * self.tolerance,
            )
        # What is pulled back through `invert`, and then through `call`, comes back unchanged, and
        # both depend on weights in opposite ways.
        of_outputs, *of_others = results["invert"]
        cotangents = [ops.convert_to_tensor(x) for x in (of_outputs, np.zeros_like(self.log_det))]
        gradients = pull_back["call"](cotangents, *self.tensors(self.inputs), *values)
        wanted = [of_inverse, *(-x for x in of_others)]
        for name, expected, received in zip(names, wanted, gradients, strict=True):
            self.compare(
                f"The gradient of `invert` with respect to {name}, pulled back through `call`, "
                "should be that of the inverse function: a loop of your own lacks it, "
                "`gyoza.modelling.functions.find_root` has it",
                expected,
                received,
                100 * self.tolerance,
            )

    def compilation(self) -> None:
        compiled = {"when compiled": self.compiled}
        if keras.backend.backend() == "tensorflow":
            compiled["under XLA"] = jit(there_and_back(self.layer), xla=True)
        for how, run in compiled.items():
            outputs, log_det, inputs = run(*self.tensors(self.inputs))
            self.compare(f"The outputs {how} should be as they are eagerly", self.outputs, outputs)
            self.compare(f"The log-determinants {how} should be as eagerly", self.log_det, log_det)
            self.compare(f"`invert` {how} should be as it is eagerly", self.inputs, inputs)

    def symbolic(self) -> None:
        inputs, *contexts = make_symbolic(self.inputs, *self.contexts)
        outputs, log_det = self.layer(inputs, *contexts)
        expected = [(None, *self.outputs.shape[1:]), (None,)]
        received = [tuple(outputs.shape), tuple(log_det.shape)]
        if received != expected:
            self.fail(
                "Symbolic outputs and log-determinants should have the shapes of real ones: check "
                f"`compute_output_shape`. Expected {expected}. Received: {received}"
            )
        alone = self.layer.compute_jacobian_determinant(inputs, *contexts)
        outputs_of_call, _ = self.layer.call(inputs, *contexts)
        received = [tuple(outputs_of_call.shape), tuple(alone.shape)]
        if received != expected:
            self.fail(
                "`call` and `compute_jacobian_determinant` should return symbolic tensors for "
                f"symbolic inputs. Expected {expected}. Received: {received}"
            )
        results = [outputs, log_det, self.layer.invert(outputs, *contexts)]
        model = keras.Model([inputs, *contexts], results)
        if len(model.weights) != len(self.layer.weights):
            self.fail(
                "A functional model of the layer should have its weights. Expected "
                f"{len(self.layer.weights)} weights. Received: {len(model.weights)}"
            )
        for what, outside, inside in zip(
            ("The outputs", "The log-determinants", "The results of `invert`"),
            (self.outputs, self.log_det, self.inputs),
            model([self.inputs, *self.contexts]),
            strict=True,
        ):
            self.compare(f"{what} in a functional model should be as outside", outside, inside)

    def configuration(self) -> None:
        arguments = inspect.signature(type(self.layer).__init__).parameters.values()
        named = {argument.name for argument in arguments if argument.kind != argument.VAR_KEYWORD}
        missing = sorted(named - {"self"} - set(self.layer.get_config()))
        if missing:
            self.fail(
                f"`get_config` should hold all of the constructor's arguments: {missing} not."
            )
        copy = copy_layer(self.layer, "float32")
        expected, received = (to_lists(layer.get_config()) for layer in (self.layer, copy))
        if received != expected:
            self.fail(
                "`from_config(get_config())` should give a layer with the same configuration. "
                f"Expected {expected}. Received: {received}"
            )

    def registration(self, fresh_process: bool) -> None:
        fault = find_fault(type(self.layer), fresh_process)
        if fault:
            self.fail(fault)

    def saving(self) -> None:
        model, arrays = FlowModel([self.layer]), [self.inputs, *self.contexts]
        model(*make_symbolic(*arrays))
        try:
            loaded = load_and_run(model, arrays)
        except RuntimeError as error:
            self.fail(
                "A saved model should load in another process: check `get_config`, and that all "
                f"classes are registered with Keras. Received:\n{error}"
            )
        for what, expected in (
            ("outputs", self.outputs),
            ("log_det", self.log_det),
            ("reconstructed_inputs", self.inputs),
        ):
            self.compare(
                f"The {what} of a model that another process loaded should be equal: what is "
                "neither a weight nor in `get_config` is lost",
                expected,
                loaded[what],
            )

    def policy(self, policy: str) -> None:
        if "float64" in policy and not has_float64():
            return
        layer = copy_layer(self.layer, policy, like=(self.inputs, *self.contexts))
        run = compile_on_jax(there_and_back(layer))
        outputs, log_det, inverse = run(*self.tensors(self.inputs))
        for what, array, dtype in (
            ("outputs", outputs, layer.compute_dtype),
            ("log-determinants", log_det, layer.log_det_dtype),
            ("results of `invert`", inverse, layer.compute_dtype),
        ):
            received = keras.backend.standardize_dtype(array.dtype)
            if received != dtype:
                self.fail(
                    f"With policy {policy} the {what} should be {dtype}. Received: {received}"
                )
        tolerance = self.tolerance
        if layer.compute_dtype != "float32":
            tolerance = max(tolerance, _TOLERANCES["float32"], _TOLERANCES[layer.compute_dtype])
        for what, expected, received in (
            ("outputs", self.outputs, outputs),
            ("log-determinants", self.log_det, log_det),
            ("round trip", self.inputs, inverse),
        ):
            self.compare(
                f"With policy {policy} the {what} should be as in float32",
                expected,
                ops.cast(received, "float32"),
                tolerance,
            )
        if layer.compute_dtype == "float64":
            self.compare(
                "In float64 `invert(call(x)[0])` should be `x` to more than the digits of float32",
                self.inputs,
                inverse,
                1e-4 * self.tolerance,
            )

    def integer_inputs(self) -> None:
        if self.layer.moves_any_dtype:
            inputs = np.arange(self.inputs.size, dtype="int32").reshape(self.inputs.shape)
            outputs, _ = self.layer(inputs)
            inverse = self.layer.invert(outputs)
            for what, array in (("outputs", outputs), ("results of `invert`", inverse)):
                received = keras.backend.standardize_dtype(array.dtype)
                if received != "int32":
                    self.fail(f"The {what} should be int32 for such inputs. Received: {received}")
            self.compare("`invert(call(x)[0])` should be `x` for integers, too", inputs, inverse)
            return
        for method in (self.layer, self.layer.invert):
            try:
                method(np.zeros(self.inputs.shape, "int32"), *self.contexts)
            except TypeError:
                continue
            self.fail("Integer inputs should raise a TypeError.")
