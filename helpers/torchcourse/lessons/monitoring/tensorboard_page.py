"""TensorBoard's own pages under a notebook cell, from a server that lives and ends with the notebook's kernel.

`%load_ext tensorboard` and `%tensorboard --logdir runs` show the same, with a server of its own that stays behind when
the notebook is closed.

The browser may be on a different machine than the kernel. `$TENSORBOARD_PROXY_URL`, with `%PORT%` in it, says how it
gets there. Without it, a page that has a proxy of its own (Colab) is asked; on JupyterHub the address goes through
jupyter-server-proxy, which must be installed there. A frame cannot tell that it stayed empty, so a line below it says
what to do then, and has the last values of the runs.
"""

import html
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from torchcourse.training.events import read_scalars

RUNS, TAGS = 10, 8
"""How many runs and curves the line below the frame has."""

_servers: dict[Path, str] = {}
"""The address of the server of each folder."""


def show_tensorboard(
    log_dir: str | os.PathLike,
    tab: Literal["timeseries", "scalars", "images", "histograms", "hparams", "text"] = "scalars",
    height: int = 600,
) -> "Page":
    """Return a frame with TensorBoard on a folder of runs, opened at a tab; below it, what to do if it stays empty.

    Args:
        log_dir: one run, or a folder with a folder for each run.
        height: of the frame, in pixels.

    Raises:
        FileNotFoundError: if there is no such folder.
    """
    folder = Path(log_dir).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {log_dir} for TensorBoard to show. Train a run first.")
    if folder not in _servers:
        _servers[folder] = _start(folder)
    return Page(f"{_in_the_browser(_servers[folder])}#{tab}", height, _without_frame(_servers[folder], folder))


@dataclass(frozen=True)
class Page:
    """A frame, as a notebook shows it."""

    src: str
    """The address that the browser is sent to."""
    height: int
    below: str
    """HTML for those whose frame stays empty."""

    def _repr_html_(self) -> str:
        from IPython.display import IFrame

        return f"{IFrame(self.src, width='100%', height=self.height)._repr_html_()}{self.below}"


def _in_the_browser(address: str) -> str:
    """Return the address at which the browser reaches a server that runs beside the kernel.

    Sources: https://github.com/tensorflow/tensorboard/blob/master/tensorboard/notebook.py (Colab, and the variable),
    https://jupyter-server-proxy.readthedocs.io/en/latest/arbitrary-ports-hosts.html
    """
    port = str(urlsplit(address).port)
    if proxy := os.environ.get("TENSORBOARD_PROXY_URL"):
        return proxy.replace("%PORT%", port).rstrip("/") + "/"
    colab = sys.modules.get("google.colab")  # imported by a kernel whose page has a proxy
    if colab is not None:
        proxied = colab.output.eval_js(f"google.colab.kernel.proxyPort({port}, {{'cache': true}})")
        if proxied:
            return f"{proxied.rstrip('/')}/"
    if prefix := os.environ.get("JUPYTERHUB_SERVICE_PREFIX"):
        return f"{prefix.rstrip('/')}/proxy/{port}/"
    return address


def _without_frame(address: str, folder: Path) -> str:
    """Return a folded part: how a browser elsewhere reaches the server, and the runs' last values without it."""
    port = urlsplit(address).port
    ways = [
        f"The kernel is on a machine that you reach by ssh: run <code>ssh -L {port}:127.0.0.1:{port} MACHINE</code> on "
        "yours, then load this page again.",
        "JupyterHub, or a Jupyter server elsewhere: <code>jupyter-server-proxy</code> must be installed beside the "
        "server. Run <code>%env TENSORBOARD_PROXY_URL=ADDRESS/proxy/%PORT%/</code> with the server's address, then "
        "this cell again.",
        "A host without a proxy, such as Kaggle: here are the last values.",
    ]
    return (
        '<details style="margin: 6px 0"><summary>The frame stays empty?</summary>'
        f"<p>TensorBoard answers at {html.escape(address)}, on the machine of the kernel. Your browser does not get "
        f"there.</p><ul>{''.join(f'<li>{way}</li>' for way in ways)}</ul>{_last_values(folder)}</details>"
    )


def _last_values(folder: Path) -> str:
    """Return a table: a row for each run, a column for each curve."""
    found = sorted({file.parent for file in folder.rglob("events.out.tfevents.*")})[:RUNS]
    runs = {run.relative_to(folder).as_posix(): read_scalars(run) for run in found}
    tags = sorted({tag for curves in runs.values() for tag in curves})[:TAGS]
    rows = [
        [name, *(f"{curves[tag][1][-1]:.4g}" if curves.get(tag, ([], []))[1] else "" for tag in tags)]
        for name, curves in runs.items()
    ]
    head = "".join(f"<th>{html.escape(word)}</th>" for word in ("run", *tags))
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(word)}</td>' for word in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>" if tags else ""


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
