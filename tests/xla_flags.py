"""Flags by which XLA compiles faster. Compiling takes most of the time of tests."""

from importlib import metadata

__all__ = ["XLA_FLAGS"]


def is_installed_since(package, version):
    """Whether a package is installed in at least this version, or not installed at all."""
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return True
    return tuple(map(int, installed.split(".")[:2])) >= version


XLA_FLAGS = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if is_installed_since("tensorflow", (2, 21)) and is_installed_since("jaxlib", (0, 10)):
    # By these emitters it takes half as long. Earlier versions do not know the flag, and abort.
    XLA_FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
