"""Edits of the factors of a network's hidden representation."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import numpy as np

from gyoza.interpretation.counterfactuals import (
    Counterfactual,
    are_probabilities,
    check_losses,
    check_target,
    compute_margin,
    find_nearest,
)
from gyoza.interpretation.latents import (
    find_mean,
    join_factors,
    move_on_arc,
    slice_factors,
)
from gyoza.interpretation.parts import count_instances, to_inputs
from gyoza.modelling.flow_layers import FlowModel
from gyoza.modelling.functions.checks import check_integer
from gyoza.modelling.functions.tensors import to_numpy
from gyoza.typing import Seed, Tensor, Tensors

__all__ = ["Edits"]


class Edits:
    """What can be done with factors that a model encodes, decodes and differentiates."""

    flow: FlowModel
    dimensions_per_factor: Mapping[str, int]
    batch_size: int
    encode: Callable[..., dict[str, np.ndarray]]
    decode: Callable[..., Tensors]
    to_hidden: Callable[..., np.ndarray]
    _compile_margin: Callable[..., Callable[..., Any]]

    @property
    def _slices(self) -> dict[str, slice]:
        return slice_factors(self.dimensions_per_factor)

    def _finish(self, factors: dict[str, np.ndarray], hidden: bool) -> Tensors:
        return self.to_hidden(factors) if hidden else self.decode(factors)

    def edit(self, x: Tensors, factor: str, value: Tensor, hidden: bool = False) -> Tensors:
        """Sets a factor.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factor: The name of the factor.
            value: Its latent vector, in a shape that broadcasts to `[instances, size]`.
            hidden: Whether to return the edited hidden representations, instead of what the network
                makes of them.

        Returns:
            The outputs of the network, or the hidden representations, `[instances, ...]`.

        Raises:
            ValueError: If there is no such factor, or `value` does not have the right shape.
        """
        factors = self.encode(x)
        (factor,) = self._check_names(factor)
        value = to_numpy(value)
        try:
            factors[factor] = np.broadcast_to(value, factors[factor].shape)
        except ValueError:
            raise ValueError(
                f"`value` should have a shape that broadcasts to {factors[factor].shape}, the "
                f"number of instances and the size of factor '{factor}'. "
                f"Received: value.shape={value.shape}"
            ) from None
        return self._finish(factors, hidden)

    def swap(
        self, a: Tensors, b: Tensors, factors: str | Iterable[str], hidden: bool = False
    ) -> Tensors:
        """Replaces some factors of instances by those of others.

        Args:
            a: Inputs of the head, `[instances, ...]`.
            b: The same number of other inputs.
            factors: The name of the factor that `a` gets from `b`, or the names of several.
            hidden: See :meth:`edit`.

        Returns:
            The outputs of the network for `a` with these factors of `b`, or the hidden
            representations.

        Raises:
            ValueError: If there is no such factor, or not as many instances in `b` as in `a`.
        """
        names = self._check_names(factors)
        factors_a, factors_b = self._encode_both(a, b)
        edited = {**factors_a, **{name: factors_b[name] for name in names}}
        return self._finish(edited, hidden)

    def traverse(
        self,
        x: Tensors,
        factor: str,
        steps: Tensor = 7,
        direction: Tensor = 0,
        hidden: bool = False,
    ) -> Tensors:
        """Moves a factor along a straight line, while the others stay.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factor: The name of the factor.
            steps: The places on the line, in standard deviations of the standard normal
                distribution, or their number, from -2 to 2.
            direction: The direction of the line: a vector `[size of the factor]`, or the index of
                a dimension. The component of the factor at right angles to it stays.
            hidden: See :meth:`edit`.

        Returns:
            The outputs of the network for each place, or the hidden representations, `[steps,
            instances, ...]`.

        Raises:
            ValueError: If there is no such factor, `direction` does not fit it, or there are no
                steps.
        """
        factors = self.encode(x)
        (factor,) = self._check_names(factor)
        places = _list_places(steps, -2.0, 2.0)
        size = self.dimensions_per_factor[factor]
        if np.ndim(direction) == 0 and -size <= direction < size:
            direction = np.eye(size)[direction]
        direction = to_numpy(direction)
        length = np.sqrt(np.sum(direction**2))
        if direction.shape != (size,) or not length > 0.0:
            raise ValueError(
                f"`direction` should be an index or a vector of the {size} dimensions of factor "
                f"'{factor}', and not zero. Received: direction={direction}"
            )
        direction = direction / length
        block = factors[factor] - (factors[factor] @ direction)[:, None] * direction
        blocks = [block + place * direction for place in places]
        return self._finish_steps(factors, {factor: blocks}, hidden)

    def interpolate(
        self,
        a: Tensors,
        b: Tensors,
        steps: Tensor = 7,
        factors: str | Iterable[str] | None = None,
        hidden: bool = False,
    ) -> Tensors:
        """Moves factors from those of one instance to those of another.

        The path is an arc around the origin, along which the distance to the origin changes evenly:
        a straight line between two draws from a normal distribution of several dimensions would
        pass near its centre, where there are no data.

        Args:
            a: Inputs of the head, `[instances, ...]`.
            b: The same number of other inputs.
            steps: The places on the path, from 0 at `a` to 1 at `b`, or their number.
            factors: The name of the factor that moves, or the names of several; all of them if
                omitted.
            hidden: See :meth:`edit`.

        Returns:
            The outputs of the network for each place, or the hidden representations, `[steps,
            instances, ...]`.

        Raises:
            ValueError: If there is no such factor, not as many instances in `b` as in `a`, or there
                are no steps.
        """
        names = list(self.dimensions_per_factor) if factors is None else self._check_names(factors)
        factors_a, factors_b = self._encode_both(a, b)
        places = _list_places(steps, 0.0, 1.0)
        moved = {
            name: [move_on_arc(factors_a[name], factors_b[name], place) for place in places]
            for name in names
        }
        return self._finish_steps(factors_a, moved, hidden)

    def resample(
        self,
        x: Tensors,
        factors: str | Iterable[str],
        sample_count: int = 1,
        seed: Seed = None,
        hidden: bool = False,
    ) -> Tensors:
        """Draws factors anew from the base distribution of the flow, while the others stay.

        The base distribution should have independent factors, as a standard normal one has.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factors: The name of the factor, or the names of several.
            sample_count: The number of draws for each instance.
            seed: Integer that determines the draws. If omitted, they differ from call to call.
            hidden: See :meth:`edit`.

        Returns:
            The outputs of the network, or the hidden representations, `[sample_count, instances,
            ...]`.

        Raises:
            ValueError: If there is no such factor, or `sample_count` is not a positive integer.
        """
        names = self._check_names(factors)
        check_integer("sample_count", sample_count, minimum=1)
        encoded = self.encode(x)
        count = len(next(iter(encoded.values())))
        z = self.flow.base_distribution.sample(sample_count * count, seed=seed)
        z = to_numpy(z).reshape(sample_count, count, -1)
        drawn = {name: z[..., self._slices[name]] for name in names}
        return self._finish_steps(encoded, drawn, hidden)

    def erase(
        self,
        x: Tensors,
        factors: str | Iterable[str],
        how: str = "mean",
        seed: Seed = None,
        hidden: bool = False,
    ) -> Tensors:
        """Removes factors from instances, while the others stay.

        The factors are replaced by values that say nothing about the instance. Probes, before and
        after, tell whether they can still be read from the rest.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            factors: The name of the factor, or the names of several.
            how: `"mean"` for the mean of the base distribution of the flow, which is 0 if it is
                standard normal. `"resample"` for a draw from it, so that the results vary as data
                do.
            seed: See :meth:`resample`.
            hidden: See :meth:`edit`.

        Returns:
            The outputs of the network, or the hidden representations, `[instances, ...]`.

        Raises:
            ValueError: If there is no such factor, or `how` is something else.

        Example:
            Both numbers can be read from a hidden layer that mixes them, until one is erased:

            >>> from gyoza import interpretation
            >>> from gyoza.modelling import flow_layers, metrics
            >>> flow = flow_layers.FlowModel([flow_layers.LULinear([2], seed=1)])
            >>> flow.build((None, 2))
            >>> numbers = np.random.default_rng(0).normal(size=[500, 2]).astype("float32")
            >>> x = keras.ops.convert_to_numpy(flow.invert(numbers))
            >>> part = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
            >>> interpreter = interpretation.Interpreter(part, flow, part, {"size": 1, "hue": 1})
            >>> metrics.leakage(x, numbers, [2]).round(1)
            array([[1., 1.]])
            >>> metrics.leakage(interpreter.erase(x, "hue", hidden=True), numbers, [2]).round(1)
            array([[1., 0.]])
        """
        names = self._check_names(factors)
        if how not in ("mean", "resample"):
            raise ValueError(f"`how` should be 'mean' or 'resample'. Received: how={how!r}")
        erased = self.encode(x)
        count = len(next(iter(erased.values())))
        base = self.flow.base_distribution
        if how == "mean":
            z = np.broadcast_to(find_mean(base), (count, base.dimension_count))
        else:
            z = to_numpy(base.sample(count, seed=seed))
        erased.update({name: z[:, self._slices[name]] for name in names})
        return self._finish(erased, hidden)

    def counterfactual(
        self,
        x: Tensors,
        target: Tensor | Callable[[Tensors], Tensor],
        factors: str | Iterable[str] | None = None,
        steps: int = 50,
    ) -> Counterfactual:
        r"""Finds the smallest change of factors with which the network gives another answer.

        If the network gives the wanted answer where :math:`m(z) > 0`, this is the shortest move in
        the dimensions of the named factors,

        .. math::
            \min_\delta \lVert \delta \rVert \quad \text{such that} \quad m(z + \delta) > 0,

        in standard deviations of the standard normal distribution. If it is found for only a few of
        the instances, or only at a large distance, the network does not rely on these factors.

        The search proceeds from one linearisation to the next. Its result is exact if the network
        is linear, and otherwise a local minimum, which is not always the global one.

        Args:
            x: Inputs of the head, `[instances, ...]`.
            target: The wanted answer: the index of a class, or one for each instance, if outputs
                are scores or probabilities of classes, `[batch, classes]`. Or a callable of Keras
                operations that maps outputs to a loss for each instance, `[batch]`, below 0 where
                the answer is right.
            factors: The name of the factor that may change, or the names of several; all of them if
                omitted.
            steps: The largest number of linearisations. Each moves by at most one standard
                deviation.

        Returns:
            A named tuple of `outputs`, `factors`, `distance` and `found`; see
            :class:`Counterfactual`. Instances with the right answer are left unchanged, with
            distance 0, and so are those for which nothing is found, with an infinite distance.
            `to_hidden(factors)` has the hidden representations.

        Raises:
            ValueError: If there is no such factor, `target` does not fit the outputs, or `steps`
                is not a positive integer.

        Example:
            The class is whether the first dimension exceeds 1. The other factor does not matter:

            >>> from gyoza import interpretation
            >>> from gyoza.modelling import flow_layers
            >>> flow = flow_layers.FlowModel([flow_layers.TriangularAffine([2])])  # the identity
            >>> flow.build((None, 2))
            >>> head = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
            >>> tail = keras.Sequential([keras.Input([2]), keras.layers.Dense(2, "softmax")])
            >>> tail.set_weights([np.array([[0.0, 5.0], [0.0, 0.0]]), np.array([0.0, -5.0])])
            >>> interpreter = interpretation.Interpreter(head, flow, tail, {"size": 1, "hue": 1})
            >>> x = np.array([[0.0, 3.0], [-1.0, 0.0], [2.0, 0.0]], "float32")
            >>> interpreter.counterfactual(x, target=1, factors="size").distance.round(2)
            array([1., 2., 0.])
            >>> interpreter.counterfactual(x, target=1, factors="hue").found
            array([False, False,  True])

        References:
            - Wachter, S., Mittelstadt, B. & Russell, C. (2017). "Counterfactual explanations
              without opening the black box." `arXiv:1711.00399
              <https://arxiv.org/abs/1711.00399>`_
            - Moosavi-Dezfooli, S.-M., Fawzi, A. & Frossard, P. (2016). "DeepFool: a simple and
              accurate method to fool deep neural networks." `arXiv:1511.04599
              <https://arxiv.org/abs/1511.04599>`_
        """
        names = list(self.dimensions_per_factor) if factors is None else self._check_names(factors)
        check_integer("steps", steps, minimum=1)
        encoded = self.encode(x)
        z = join_factors(encoded, self.dimensions_per_factor)
        outputs, others = self.decode(encoded), []
        if callable(target):
            check_losses(target, outputs, len(z))
            differentiate = self._compile_margin(lambda outputs: -target(outputs))
        else:
            others.append(check_target(target, outputs, len(z)))
            differentiate = self._class_margins[are_probabilities(outputs)]
        is_free = np.zeros(z.shape[1], bool)
        for name in names:
            is_free[self._slices[name]] = True
        batches = [
            slice(start, start + self.batch_size)
            for start in range(0, max(len(z), 1), self.batch_size)
        ]
        parts = [
            find_nearest(differentiate, z[rows], [y[rows] for y in others], is_free, steps)
            for rows in batches
        ]
        moved, distance, found = (np.concatenate(part) for part in zip(*parts, strict=True))
        changed = {name: moved[:, block] for name, block in self._slices.items()}
        return Counterfactual(self.decode(changed), changed, distance, found)

    @functools.cached_property
    def _class_margins(self) -> dict[bool, Callable[..., Any]]:
        """Functions that differentiate margins of classes, by whether outputs are probabilities."""
        return {
            flag: self._compile_margin(functools.partial(compute_margin, take_logarithms=flag))
            for flag in (False, True)
        }

    def _check_names(self, factors: str | Iterable[str]) -> list[str]:
        is_one = isinstance(factors, str) or not isinstance(factors, Iterable)
        names: list[Any] = [factors] if is_one else list(factors)
        unknown = [name for name in names if name not in self.dimensions_per_factor]
        if unknown or not names:
            raise ValueError(
                f"Factors should be some of {list(self.dimensions_per_factor)}. "
                f"Received: {factors!r}"
            )
        return names

    def _encode_both(
        self, a: Tensors, b: Tensors
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        a, b = to_inputs(a), to_inputs(b)
        counts = [count_instances(x) for x in (a, b)]
        if counts[0] != counts[1]:
            raise ValueError(
                "`a` and `b` should hold the same number of instances. "
                f"Received: {counts[0]} and {counts[1]}"
            )
        return self.encode(a), self.encode(b)

    def _finish_steps(
        self, factors: dict[str, np.ndarray], changed: dict[str, Tensor], hidden: bool
    ) -> Tensors:
        """Decodes all steps in one batch.

        Factors that change have shape `[steps, instances, size]`.
        """
        step_count = len(next(iter(changed.values())))
        repeated = {
            name: np.concatenate(list(changed.get(name, [block] * step_count)))
            for name, block in factors.items()
        }
        outputs = self._finish(repeated, hidden)
        return keras.tree.map_structure(lambda y: y.reshape(step_count, -1, *y.shape[1:]), outputs)


def _list_places(steps: Tensor, first: float, last: float) -> np.ndarray:
    """Returns the places on a line, given as such or by their number."""
    if np.ndim(steps) > 0:
        return np.asarray(steps)
    check_integer("steps", steps, minimum=1)
    return np.linspace(first, last, steps)
