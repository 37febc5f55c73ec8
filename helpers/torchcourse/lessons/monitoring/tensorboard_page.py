"""TensorBoard's own pages under a notebook cell, from a server that lives and ends with the notebook's kernel.

`%load_ext tensorboard` and `%tensorboard --logdir runs` show the same, with a server of its own that stays behind when
the notebook is closed.

The browser may be on a different machine than the kernel. On Colab its proxy is asked; on JupyterHub the address goes
through jupyter-server-proxy, which must be installed there; `$TENSORBOARD_PROXY_URL`, with `%PORT%` in it, goes before
both. Over ssh alone, forward the port that the frame's address names: `ssh -L PORT:127.0.0.1:PORT machine`.
"""

import importlib
import os
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

_servers: dict[Path, str] = {}
"""The address of the server of each folder."""


def show_tensorboard(
    log_dir: str | os.PathLike,
    tab: Literal["timeseries", "scalars", "images", "histograms", "hparams", "text"] = "scalars",
    height: int = 600,
) -> Any:
    """Return a frame with TensorBoard on a folder of runs, opened at a tab.

    Args:
        log_dir: one run, or a folder with a folder for each run.
        height: of the frame, in pixels.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    from IPython.display import IFrame

    folder = Path(log_dir).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {log_dir} for TensorBoard to show. Train a run first.")
    if folder not in _servers:
        _servers[folder] = _start(folder)
    return IFrame(f"{_in_the_browser(_servers[folder])}#{tab}", width="100%", height=height)


def _in_the_browser(address: str) -> str:
    """Return the address at which the browser reaches a server that runs beside the kernel.

    Sources: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/notebook.py (Colab, and the variable),
    https://jupyter-server-proxy.readthedocs.io/en/latest/arbitrary-ports-hosts.html
    """
    port = str(urlsplit(address).port)
    if proxy := os.environ.get("TENSORBOARD_PROXY_URL"):
        return proxy.replace("%PORT%", port).rstrip("/") + "/"
    if "COLAB_RELEASE_TAG" in os.environ:
        colab = importlib.import_module("google.colab")  # is on Colab only
        proxied: str = colab.output.eval_js(f"google.colab.kernel.proxyPort({port}, {{'cache': true}})")
        return proxied.rstrip("/") + "/"
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return f"{prefix.rstrip('/')}/proxy/{port}/"
    return address


def _start(folder: Path) -> str:
    """Start a server in a thread of this process and return its address."""
    import logging

    from tensorboard import default, program

    for name in ("werkzeug", "tensorboard"):  # else each request and each reload would write under some other cell
        logging.getLogger(name).setLevel(logging.ERROR)
    server = program.TensorBoard(default.get_plugins())
    # Port 0: whichever is free. The fast loader would be a process that nobody ends.
    server.configure(logdir=str(folder), port=0, host="127.0.0.1", load_fast="false", reload_interval=15)
    return server.launch()
