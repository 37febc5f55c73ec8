"""Where packages come from on this machine: pip's settings (a mirror, a certificate), handed over to uv."""

import ast
import re
import subprocess
from pathlib import Path

UV_NAMES = {
    "index-url": "UV_INDEX_URL",
    "extra-index-url": "UV_EXTRA_INDEX_URL",
    "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
}


def pip_settings(python: Path, environment: dict[str, str]) -> dict[str, str]:
    """Return what pip is configured with, in its files and its variables, by pip's names; spaces part a list."""
    command = [str(python), "-m", "pip", "config", "list"]
    listing = subprocess.run(command, capture_output=True, text=True, env=environment).stdout
    found = re.findall(r"^(global|install|:env:)\.([\w-]+)=(.+)$", listing, re.MULTILINE)
    found.sort(key=lambda entry: ("global", "install", ":env:").index(entry[0]))
    return {name: " ".join(ast.literal_eval(value).split()) for _, name, value in found}


def uv_variables(settings: dict[str, str]) -> dict[str, str]:
    """Return pip's settings as the variables that uv reads. uv looks at no setting of pip's by itself."""
    variables = {uv: settings[pip] for pip, uv in UV_NAMES.items() if settings.get(pip)}
    if "UV_FIND_LINKS" in variables:
        variables["UV_FIND_LINKS"] = variables["UV_FIND_LINKS"].replace(" ", ",")
    # As pip does: the best version of all places, not of the first place that has the package.
    return variables | {"UV_INDEX_STRATEGY": "unsafe-best-match", "UV_PYTHON_DOWNLOADS": "never"}
