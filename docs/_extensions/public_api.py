"""Makes the API reference show the public API of gyoza and nothing else.

The modules that `api/index.rst` lists are public, and so is what their `__all__` names. Within a
class, a name with an underscore at either end, such as `_scale_`, is public as well. Members that a
class inherits from a public class are listed with links, those that it inherits from a private
class are documented with its own, and those that it inherits from other packages are left out.
"""

import functools
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

PACKAGE = "gyoza"
INDEX = Path(__file__).parents[1] / "api" / "index.rst"

# What Keras calls, and users of a class hardly do.
KERAS_MEMBERS = {
    "build",
    "build_from_config",
    "compile_from_config",
    "compute_loss",
    "compute_metrics",
    "compute_output_shape",
    "compute_output_spec",
    "from_config",
    "get_build_config",
    "get_compile_config",
    "get_config",
    "make_predict_function",
    "make_test_function",
    "make_train_function",
    "output_spec",
    "save_weights",
}

# What most users of a class call comes first, whatever the order of the source is.
FIRST_MEMBERS = [
    "adapt",
    "compile",
    "fit",
    "evaluate",
    "__call__",
    "log_prob",
    "sample",
    "sample_each",
    "sample_and_log_prob",
    "invert",
    "cdf",
    "quantile",
    "quantiles",
    "probability_integral_transform",
    "invert_probability_integral_transform",
    "from_network",
    "swap",
    "edit",
    "erase",
    "interpolate",
    "traverse",
    "resample",
    "counterfactual",
    "encode",
    "decode",
    "save",
    "export",
]

SPECIAL_MEMBERS = ["__call__", "__getitem__", "__len__"]

# Keras publishes no inventory that references could be looked up in.
KERAS_PAGES = {
    "keras.src.models.model.Model": "https://keras.io/api/models/model/",
    "keras.src.layers.layer.Layer": "https://keras.io/api/layers/base_layer/",
    "keras.src.losses.loss.Loss": "https://keras.io/api/losses/",
    "keras.src.metrics.metric.Metric": "https://keras.io/api/metrics/base_metric/",
    "keras.src.callbacks.callback.Callback": "https://keras.io/api/callbacks/base_callback/",
    "keras.src.regularizers.regularizers.Regularizer": "https://keras.io/api/layers/regularizers/",
}

# Classes of large modules by the files that define them. Those of other files come last.
GROUPS = {
    "gyoza.modelling.flow_layers": {
        "Models": "models disentangling variational flow_matching",
        "Couplings": "couplings affine_couplings spline_couplings circular logistic_couplings "
        "elementwise_couplings",
        "Autoregressive layers": "autoregressive neural_autoregressive inverse",
        "Linear layers and permutations": "linear linear_maps reflections permutations pair_axes",
        "Normalisation": "normalisation batch_normalisation",
        "Units, bounds and shapes of distributions": "columns elementwise bounded univariate "
        "gaussianization dequantization",
        "Residual and continuous layers": "planar residual continuous",
        "Images and shapes": "images multi_scale",
        "Base classes": "base conditional",
    },
}

# "shape: See :class:`FlowLayer`." in a list of arguments.
REFERENCE = re.compile(r"^(    (\w+): )See :\w+:`~?([\w.]+)`\.(?= |$)", re.MULTILINE)


def find_public_objects() -> dict[str, Any]:
    """Imports the public classes and functions, and returns them by public name."""
    names = re.findall(rf"^ +({PACKAGE}[\w.]*)$", INDEX.read_text("utf-8"), re.MULTILINE)
    modules = {name: importlib.import_module(name) for name in names}
    return {
        f"{module_name}.{name}": getattr(module, name)
        for module_name, module in modules.items()
        for name in module.__all__
        if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name))
    }


PUBLIC = find_public_objects()
# From the place where something is defined to the name under which it is documented.
PUBLIC_NAMES = {f"{obj.__module__}.{obj.__qualname__}": name for name, obj in PUBLIC.items()}


def is_public(name: str) -> bool:
    """Returns whether a member is public: `invert`, `_scale_` and `__call__`, but not `_helper`."""
    return name not in KERAS_MEMBERS and (not name.startswith("_") or name.endswith("_"))


def get_defined_members(cls: type) -> list[str]:
    """Lists the public members that `cls` itself defines and documents, attributes included."""
    members = [
        name
        for name, value in vars(cls).items()
        if value.__doc__ and (inspect.isroutine(value) or isinstance(value, property))
    ]
    members += re.findall(r"^    (\w+)(?: \(.*\))?:", get_section(cls, "Attributes"), re.MULTILINE)
    comments = ModuleAnalyzer.for_module(cls.__module__).find_attr_docs()
    members += [name for owner, name in comments if owner == cls.__qualname__]
    return sorted({name for name in members if is_public(name) and not name.startswith("__")})


def get_section(obj: Any, title: str) -> str:
    """Returns the text under a title in the docstring of a class or function."""
    match = re.search(rf"^{title}:\n((?:\n|    .*\n?)*)", inspect.getdoc(obj) or "", re.MULTILINE)
    return match[1] if match else ""


def find_argument(path: str, argument: str, owner: Any) -> str | None:
    """Returns what the docstring of another class or function says of an argument.

    Args:
        path: The name of the other one, such as `FlowLayer` or `FlowLayer.call`.
        argument: The name of the argument.
        owner: The class that is documented, for names of its methods, or `None`.
    """
    first, *others = path.split(".")
    named = [obj for obj in PUBLIC.values() if obj.__name__ == first]
    obj = named[0] if named else getattr(owner, first, None)
    for name in others:
        obj = getattr(obj, name, None)
    pattern = rf"^    {argument}: (.*\n(?:(?:        .*)?\n)*)"
    match = re.search(pattern, get_section(obj, "Args") + "\n", re.MULTILINE)
    if match is None:
        return None
    text = match[1].rstrip()
    other = REFERENCE.match(f"    {argument}: {text}")
    return (other and find_argument(other[3], argument, owner)) or text


def group_classes(module: str) -> dict[str, list[str]]:
    """Divides the public classes of a module into groups, by title."""
    classes = {
        name.removeprefix(f"{module}."): obj.__module__.rpartition(".")[2]
        for name, obj in PUBLIC.items()
        if inspect.isclass(obj) and name.rpartition(".")[0] == module
    }
    groups = {
        title: [name for name, file in classes.items() if file in files.split()]
        for title, files in GROUPS.get(module, {}).items()
    }
    grouped = [name for names in groups.values() for name in names]
    groups["Further classes" if groups else "Classes"] = [
        name for name in classes if name not in grouped
    ]
    return {title: names for title, names in groups.items() if names}


def get_private_bases(cls: type) -> list[type]:
    """Lists the classes of gyoza that have no page, nor a public subclass above `cls`."""
    bases = [base for base in cls.__mro__[1:] if base.__module__.split(".")[0] == PACKAGE]
    public = [base for base in bases if base in PUBLIC.values()]
    return [base for base in bases if not any(issubclass(other, base) for other in public)]


def list_members(name: str) -> list[tuple[str, str]]:
    """Lists the members on the page of the class `name`, each with the directive that shows it."""
    cls = PUBLIC[name]
    members: dict[str, str] = {}
    for owner in [cls, *get_private_bases(cls)]:
        comments = ModuleAnalyzer.for_module(owner.__module__).find_attr_docs()
        described = [member for path, member in comments if path == owner.__qualname__]
        for member, value in {**dict.fromkeys(described), **vars(owner)}.items():
            if is_public(member) and (member in described or value.__doc__):
                members.setdefault(member, get_directive(member, value, member in described))
    names = [member for member, directive in members.items() if directive]
    names.sort(key=lambda member: [*FIRST_MEMBERS, member].index(member))
    return [(member, members[member]) for member in names]


def get_directive(member: str, value: Any, is_described: bool) -> str:
    """Returns the directive that shows a member of a class, or an empty string for none.

    Args:
        member: Its name.
        value: What the dictionary of the class has under this name.
        is_described: Whether a string or a comment in the class describes it.
    """
    if is_described:
        return "autoattribute"
    if isinstance(value, property | functools.cached_property):
        return "autoproperty"
    if inspect.isclass(value):
        return "autoclass"
    is_own = getattr(value, "__module__", PACKAGE).split(".")[0] == PACKAGE
    is_shown = not member.startswith("__") or member in SPECIAL_MEMBERS
    return "automethod" if inspect.isroutine(value) and is_own and is_shown else ""


def get_inherited_members(name: str) -> dict[str, list[str]]:
    """Lists what the class `name` inherits from public classes, by the name of the class."""
    cls = PUBLIC[name]
    seen = {
        member for base in [cls, *get_private_bases(cls)] for member in get_defined_members(base)
    }
    inherited = {}
    for base in cls.__mro__[1:]:
        if base in PUBLIC.values():
            members = {
                member
                for owner in [base, *get_private_bases(base)]
                for member in get_defined_members(owner)
            }
            inherited[f"{base.__module__}.{base.__qualname__}"] = sorted(members - seen)
            seen |= members
    return {base: members for base, members in inherited.items() if members}


def show_constructors(app: Sphinx) -> None:
    """Shows how `__init__` is called; Keras's `__new__` would show `*args, **kwargs`."""
    for cls in PUBLIC.values():
        if inspect.isclass(cls):
            signature = inspect.signature(cls.__init__)
            parameters = list(signature.parameters.values())[1:]
            cls.__signature__ = signature.replace(
                parameters=parameters, return_annotation=inspect.Signature.empty
            )


def hide_private_bases(app: Sphinx, name: str, obj: type, options: Any, bases: list[Any]) -> None:
    """Shows the bases of private base classes in their place."""

    def is_private(base: type) -> bool:
        return base.__module__.split(".")[0] == PACKAGE and base not in PUBLIC.values()

    while any(map(is_private, bases)):
        shown = [
            other for base in bases for other in (base.__bases__ if is_private(base) else [base])
        ]
        bases[:] = [
            base
            for base in dict.fromkeys(shown)
            if not any(issubclass(other, base) and other is not base for other in shown)
        ]


def skip_member(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out private members, and those that other packages add or a private base annotates."""
    function = obj.fget if isinstance(obj, property) else obj
    is_foreign = inspect.isfunction(function) and function.__module__.split(".")[0] != PACKAGE
    return None if is_public(name) and not is_foreign else True


def keep_colons(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Adds an empty type to properties, or napoleon would take what precedes a colon for it."""
    if what == "property" and lines:
        lines[0] = f": {lines[0]}"


def repeat_arguments(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Repeats what is said of arguments elsewhere, where docstrings refer to it."""
    owner = PUBLIC.get(name.rpartition(".")[0])

    def repeat(match: re.Match[str]) -> str:
        text = find_argument(match[3], match[2], owner)
        return match[0] if text is None else match[1] + text

    lines[:] = REFERENCE.sub(repeat, "\n".join(lines)).split("\n")


def resolve_reference(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Leads references to the module that defines something to where it is documented."""
    target = node.get("reftarget", "")
    if target in KERAS_PAGES:
        return nodes.reference("", "", contnode, internal=False, refuri=KERAS_PAGES[target])
    for name, public_name in PUBLIC_NAMES.items():
        if node.get("refdomain") == "py" and f"{target}.".startswith(f"{name}."):
            return env.domains["py"].resolve_xref(
                env,
                node.get("refdoc"),
                app.builder,
                "obj",
                public_name + target.removeprefix(name),
                node,
                contnode,
            )
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    classes = [name for name, obj in PUBLIC.items() if inspect.isclass(obj)]
    modules = {name.rpartition(".")[0] for name in PUBLIC}
    app.config.autosummary_context |= {
        "class_members": {name: list_members(name) for name in classes},
        "links_to_inherited": {name: get_inherited_members(name) for name in classes},
        "class_groups": {name: group_classes(name) for name in modules},
    }
    app.connect("builder-inited", show_constructors, priority=0)
    app.connect("autodoc-process-bases", hide_private_bases)
    app.connect("autodoc-process-docstring", repeat_arguments, priority=300)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)
    app.connect("autodoc-skip-member", skip_member)
    app.connect("missing-reference", resolve_reference)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
