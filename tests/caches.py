"""Caches of JAX and TensorFlow, which are kept or emptied so that tests take less time.

Their names are private. Where a version lacks one, tests take longer, and nothing else.
"""

import contextlib
from unittest import mock

__all__ = ["forget_what_was_compiled", "forget_what_was_lowered", "keep_kernels"]


def forget_what_was_compiled():
    """Has JAX free what a program was compiled from, which it would keep, in a context of MLIR.

    The more of these there are, the longer it takes to make another one.
    """
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.interpreters import pxla

        compile_program = pxla.MeshComputation.compile

        def compile_and_forget(self, *args, **kwargs):
            executable = compile_program(self, *args, **kwargs)
            self._hlo = None
            return executable

        pxla.MeshComputation.compile = compile_and_forget


def forget_what_was_lowered():
    """Frees the programs that JAX has lowered and would keep, likewise."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src.interpreters import pxla

        pxla._cached_lowering_to_hlo.cache_clear()


def keep_kernels():
    """Returns a context in which a new seed of TensorFlow leaves the kernels of operations.

    It would forget all of them, and make them anew.
    """
    with contextlib.suppress(ImportError):
        from tensorflow.python import pywrap_tfe

        return mock.patch.object(pywrap_tfe, "TFE_ContextClearCaches", create=True)
    return contextlib.nullcontext()
