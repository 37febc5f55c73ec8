"""A kernel in a sandbox, for whatever starts kernels through Jupyter: jupyter_client's own extension point.

With `JUPYTER_DEFAULT_PROVISIONER_NAME=torchcourse-sandbox` in the environment, each kernel of `nbgrader autograde`,
`nbgrader validate` or any other program of Jupyter's runs its cells in a sandbox, with no line of theirs changed. A
kernel of another language does not start then.
"""

import sys
from typing import Any

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import LocalProvisioner

from torchcourse.tools.classroom import execution
from torchcourse.tools.classroom.sandbox.box import POSSIBLE, Box


class SandboxProvisioner(LocalProvisioner):
    """Starts a kernel whose cells run in a sandbox."""

    _box: Box | None = None

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        if not POSSIBLE or self.kernel_spec.language != "python":
            raise RuntimeError("A sandbox runs Python on Linux only, so this kernel was not started.")
        if not execution.is_isolated():
            self.log.error(execution.UNPROTECTED)
        self._end()
        self._box = execution.patiently(lambda: Box(execution.warm()))
        channel, words = self._box.handed_over()
        module = "torchcourse.tools.classroom.sandbox.kernel"
        place = ["-f", str(self.parent.connection_file)] if self.parent else []
        kwargs["pass_fds"] = [*kwargs.get("pass_fds", ()), channel]
        return await super().launch_kernel([sys.executable, "-P", "-m", module, *words, *place], **kwargs)

    async def cleanup(self, restart: bool = False) -> None:
        await super().cleanup(restart)
        self._end()

    def _end(self) -> None:
        if self._box is not None:
            self._box.end()
            self._box = None
