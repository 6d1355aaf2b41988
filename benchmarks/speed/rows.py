"""Who is measured: the rows of each table, and the environments that they run in."""

import dataclasses
import os

from speed.cells import CELLS, Cell

__all__ = ["ENVIRONMENTS", "ROWS", "Row"]

# On a machine with a GPU: TORCH="torch==2.13.0+cu126" JAX="jax[cuda13]", for example.
_TORCH = os.environ.get("TORCH", "torch==2.13.0")
_JAX = os.environ.get("JAX", "jax")
_TENSORFLOW = "tensorflow==2.21.0"

# The requirements of each environment; "." stands for this repository.
ENVIRONMENTS = {
    "gyoza": (".", _TENSORFLOW, "keras==3.15.0", _JAX, _TORCH),
    "zuko": (_TORCH, "zuko==1.6.0"),
    "nflows": (_TORCH, "nflows==0.14"),
    "normflows": (_TORCH, "normflows==1.7.3"),
    "freia": (_TORCH, "FrEIA==0.2"),
    "flowjax": (_JAX, "flowjax==19.1.2"),
    "distrax": (_JAX, "distrax==0.1.9", "optax"),
    "tfp": (_TENSORFLOW, "tf-keras==2.21.0", "tensorflow-probability==0.25.0"),
    "bayesflow": (_JAX, "bayesflow==2.0.12", "optax"),
    "torchcfm": (_TORCH, "torchcfm==1.0.7"),
    "diffrax": (_JAX, "diffrax==0.7.2", "optax"),
    "earlier": ("gyoza==0.2.2", _TENSORFLOW, "tf-keras==2.21.0"),
}


@dataclasses.dataclass(frozen=True)
class Row:
    """A library, in one way of using it.

    Attributes:
        name: What it is called in tables.
        environment: Where it runs; see `ENVIRONMENTS`.
        peer: The module in `speed.peers`.
        kinds: The kinds of cells that it offers.
        variant: What is passed to that module.
        variables: Environment variables.
        is_deep: Whether it runs the cells that measure memory.
        is_shallow: Whether it runs the others.
        is_fast: Whether it is among the fastest, and so runs other batch sizes, too.
        is_quick: Whether it is part of the quick form.
    """

    name: str
    environment: str
    peer: str
    kinds: tuple[str, ...]
    variant: str = "default"
    variables: dict[str, str] = dataclasses.field(default_factory=dict)
    is_deep: bool = False
    is_shallow: bool = True
    is_fast: bool = False
    is_quick: bool = False

    def offers(self, cell: Cell) -> bool:
        """Returns whether there is something to measure."""
        runs = self.is_deep if cell.measures_memory else self.is_shallow
        if cell.name.startswith("W9"):
            runs = self.is_fast
        if cell.is_large:
            runs = self.is_fast or self.variant == "mixed"
        return runs and cell.kind in self.kinds


_KINDS = tuple(dict.fromkeys(cell.kind for cell in CELLS.values()))
_TORCH_KINDS = ("additive", "affine", "spline", "maf", "glow", "reflections")
_TFP_KINDS = ("affine", "spline", "maf", "glow")
_LEGACY = {"TF_USE_LEGACY_KERAS": "1"}
_BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax", "PyTorch": "torch"}

ROWS = [
    *(
        Row(
            f"gyoza on {name}",
            "gyoza",
            "gyoza_flows",
            _KINDS,
            variables={"KERAS_BACKEND": backend},
            is_deep=True,
            is_fast=True,
            is_quick=True,
        )
        for name, backend in _BACKENDS.items()
    ),
    *(
        Row(
            f"gyoza on {name}, memory-efficient",
            "gyoza",
            "gyoza_flows",
            ("affine",),
            "memory-efficient",
            {"KERAS_BACKEND": backend},
            is_deep=True,
            is_shallow=False,
        )
        for name, backend in _BACKENDS.items()
    ),
    *(
        Row(
            f"gyoza on {name}, mixed precision",
            "gyoza",
            "gyoza_flows",
            ("affine", "glow"),
            "mixed",
            {"KERAS_BACKEND": backend},
            is_shallow=False,
        )
        for name, backend in _BACKENDS.items()
    ),
    Row(
        "zuko",
        "zuko",
        "zuko_flows",
        ("affine", "spline", "maf", "continuous", "adaptive"),
        "eager",
        is_quick=True,
    ),
    Row("zuko, compiled", "zuko", "zuko_flows", ("maf",), "compiled"),
    Row("nflows", "nflows", "nflows_flows", _TORCH_KINDS, "eager"),
    Row("normflows", "normflows", "normflows_flows", _TORCH_KINDS[:5], "eager"),
    Row(
        "FrEIA",
        "freia",
        "freia_flows",
        ("additive", "affine", "glow", "reflections"),
        "eager",
        is_fast=True,
    ),
    Row("FrEIA, compiled", "freia", "freia_flows", ("additive", "affine", "glow"), "compiled"),
    Row(
        "flowjax",
        "flowjax",
        "flowjax_flows",
        ("affine", "spline", "maf", "reflections"),
        is_deep=True,
        is_fast=True,
        is_quick=True,
    ),
    Row("distrax", "distrax", "distrax_flows", ("affine", "spline"), is_fast=True),
    Row("TensorFlow Probability", "tfp", "tfp_flows", _TFP_KINDS, variables=_LEGACY, is_fast=True),
    Row("TensorFlow Probability, XLA", "tfp", "tfp_flows", ("spline",), "compiled", _LEGACY),
    Row(
        "BayesFlow",
        "bayesflow",
        "bayesflow_flows",
        ("affine", "spline"),
        "jitted",
        {"KERAS_BACKEND": "jax"},
    ),
    Row("torchcfm", "torchcfm", "torchcfm_flows", ("continuous", "adaptive"), "eager"),
    Row("diffrax", "diffrax", "diffrax_flows", ("adaptive",), "batch"),
    # Its affine couplings count log-scales of all dimensions, so that densities are wrong.
    Row("gyoza 0.2", "earlier", "earlier_gyoza", ("additive",), "compiled", _LEGACY),
    Row("gyoza 0.2", "earlier", "earlier_gyoza", ("pairs",), "eager", _LEGACY),
    Row("loop in TensorFlow", "tfp", "loops_tensorflow", ("reflections",)),
    Row("loop in JAX", "flowjax", "loops_jax", ("reflections", "continuous")),
    Row("loop in PyTorch", "zuko", "loops_torch", ("reflections",), "torch"),
]
