"""Forks the kernels that execute pages from a process that has imported TensorFlow.

To import it takes longer than to run most pages. Each kernel is a process of its own, as ever, in
which nothing has been computed yet.
"""

import multiprocessing
import os
from importlib.metadata import EntryPoint
from typing import Any

from ipykernel.kernelapp import IPKernelApp
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner
from sphinx.application import Sphinx

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["tensorflow", "keras", "gyoza", "IPython", "ipykernel.kernelapp"]


def run_kernel(arguments: list[str], folder: str) -> None:
    """Runs a kernel in this process until it is shut down."""
    os.chdir(folder)
    IPKernelApp.launch_instance([*arguments, "--IPKernelApp.log_level=CRITICAL"])


class ForkedProcess(PROCESSES.Process):
    """A process with the methods of `subprocess.Popen` that a provisioner calls."""

    stdin = stdout = stderr = None

    def poll(self) -> int | None:
        """Returns the exit code, or `None` while the process runs."""
        return self.exitcode

    def wait(self) -> int | None:
        """Waits for the end of the process, and returns the exit code."""
        self.join()
        return self.exitcode

    def send_signal(self, signal_number: int) -> None:
        """Sends a signal to this process alone."""
        os.kill(self.pid, signal_number)


class ForkingProvisioner(LocalProvisioner):
    """Forks kernels, where `LocalProvisioner` starts Python anew."""

    async def launch_kernel(self, cmd: list[str], *, cwd: str, **_: Any) -> KernelConnectionInfo:
        """Forks a kernel, given the command that would start it."""
        # The command is `python -m ipykernel_launcher` with arguments.
        self.process = ForkedProcess(target=run_kernel, args=(cmd[3:], cwd))
        self.process.start()
        self.pid = self.process.pid
        self.cwd = cwd
        return self.connection_info


def setup(app: Sphinx) -> dict[str, bool]:
    # A kernel sets this, too, but Matplotlib has been imported before it starts.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    PROCESSES.set_forkserver_preload(PRELOADED)
    factory = KernelProvisionerFactory.instance(default_provisioner_name="forking")
    factory.provisioners["forking"] = EntryPoint(
        "forking", f"{__name__}:{ForkingProvisioner.__name__}", factory.GROUP_NAME
    )
    return {"parallel_read_safe": True, "parallel_write_safe": True}
