"""`python -m torchcourse.tools.site`, or `make site`."""

import argparse
import os
import subprocess
import sys

from torchcourse.tools.repository import ROOT
from torchcourse.tools.site import FOLDER, HTML
from torchcourse.tools.site.execution import NotRun
from torchcourse.tools.site.requests import foreign_requests
from torchcourse.tools.site.source_tree import write_sources


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the course as a static site, in _site/html.")
    parser.add_argument("--only", nargs="+", default=[], metavar="NN", help="these lessons alone, such as 00 06")
    parser.add_argument("--again", action="store_true", help="run all notebooks again, not only what changed")
    options = parser.parse_args()
    try:
        written = write_sources(ROOT, FOLDER, only=options.only, again=options.again)
    except NotRun as error:
        print(f"Not built: {error} What ran before is kept.", file=sys.stderr)
        return 1
    print(f"{written} pages are new or changed.", flush=True)
    status = sphinx()
    if status:
        return status
    foreign = foreign_requests(HTML)
    for line in foreign:
        print(f"Not allowed, as it asks a different host: {line}", file=sys.stderr)
    if not foreign:
        print(f"The site is in {HTML}; begin with index.html.")
    return 1 if foreign else 0


def sphinx() -> int:
    """Make HTML of the sources; return Sphinx's exit status."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-c", ROOT / "docs" / "site", "-d", FOLDER / "doctrees"]
    command += ["-q", "-j", "2", FOLDER / "source", HTML]
    environment = os.environ | {"TORCHCOURSE_SITE": str(FOLDER)}
    return subprocess.run([str(part) for part in command], env=environment).returncode


sys.exit(main())
