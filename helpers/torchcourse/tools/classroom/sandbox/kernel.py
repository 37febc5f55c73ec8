"""A Jupyter kernel in front of a sandbox: it speaks with nbgrader, and what was handed in runs behind it.

It runs as a script of its own. Command line: the words of `Box.handed_over`, then what a kernel gets. The sandbox has
no connection to the front end, so its code can send nothing in the place of a result.
"""

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, ClassVar

from ipykernel.kernelapp import IPKernelApp
from ipykernel.kernelbase import Kernel

from torchcourse.tools.classroom import staging
from torchcourse.tools.classroom.sandbox.box import PROCESSOR, WALL, WHOLE, Box, Died


class SandboxedKernel(Kernel):
    """Runs each cell in a sandbox that is there already."""

    box: ClassVar[Box]
    implementation, implementation_version, banner = "torchcourse", "1", "Python in a sandbox"
    language_info = {"name": "python", "mimetype": "text/x-python", "file_extension": ".py"}  # noqa: RUF012 (as ipykernel declares it)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._ended = ""
        # A kernel begins in the folder of its notebook, and the sandbox in one of its own.
        self._beside = staging.beside(Path.cwd())[0]

    async def do_execute(self, code: str, silent: bool, *_options: Any, **_named: Any) -> dict[str, Any]:
        for output in self._outputs(code):
            kind = output.pop("output_type")
            if kind == "execute_result":
                output["execution_count"] = self.execution_count
            if not silent:
                self.send_response(self.iopub_socket, kind, output)
            if kind == "error":
                return {"status": "error", "execution_count": self.execution_count, **output}
        done = {"status": "ok", "execution_count": self.execution_count}
        return {**done, "payload": [], "user_expressions": {}}

    def pre_handler_hook(self) -> None:
        """The stop button, and a limit of time of nbgrader's, end the cell and not this process."""
        self._before = signal.signal(signal.SIGINT, self._interrupt)

    def post_handler_hook(self) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        self.box.interrupt()

    def _outputs(self, code: str) -> list[dict[str, Any]]:
        if not self._ended:
            try:
                files, self._beside = self._beside, {}
                return self.box.run(code, PROCESSOR, WALL, WHOLE, files)
            except Died as died:
                self._ended = f"Not run: {died}."
        return [{"output_type": "error", "ename": "NotRun", "evalue": self._ended, "traceback": [self._ended]}]


if __name__ == "__main__":
    SandboxedKernel.box = Box.adopt(sys.argv[1:4])
    IPKernelApp.launch_instance(argv=sys.argv[4:], kernel_class=SandboxedKernel)
