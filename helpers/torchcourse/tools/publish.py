"""Tell the course where it is published: `make publish ARGS="--repository https://github.com/OWNER/NAME"`.

The address stands in one place, `[tool.torchcourse]` of pyproject.toml. From it come the links to Colab and Kaggle, on
each notebook and in the README, and the address from which a set-up cell installs the course. `--repository ""` takes
all of them away again.
"""

import argparse
import json
import re
import sys
from pathlib import Path

from torchcourse.tools.build import notebooks
from torchcourse.tools.build.hosts import badges
from torchcourse.tools.repository import ROOT

FIRST_NOTEBOOK = "notebooks/00_start_here/1_start_here.ipynb"
MARK = "<!-- badges -->"
"""The line of the README that holds the links; alone while the course is not published."""


def set_address(address: str, root: Path = ROOT) -> str:
    """Write the address of the repository into pyproject.toml and the README, and return it as it was written.

    Raises:
        ValueError: in a sentence, for an address that is none of a repository on GitHub.
    """
    address = checked(address)
    setting, readme = root / "pyproject.toml", root / "README.md"
    text = setting.read_text(encoding="utf-8")
    new = re.sub(r'(?m)^repository = ".*"$', f"repository = {json.dumps(address)}", text)
    links = MARK + (f" {badges(address, FIRST_NOTEBOOK)}" if address else "")
    page = re.sub(rf"(?m)^{MARK}.*$", lambda _: links, readme.read_text(encoding="utf-8"))
    notebooks.write_text(setting, new)
    notebooks.write_text(readme, page)
    return address


def checked(address: str) -> str:
    """Return the address in the one form https://github.com/OWNER/NAME; nothing for nothing.

    Raises:
        ValueError: in a sentence, for any other address.
    """
    address = address.strip()
    if not address:
        return ""
    found = re.fullmatch(
        r"(?:(?:https?://|git@|ssh://git@)?(?:www\.)?github\.com[/:])([A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)/"
        r"([\w.-]+?)(?:\.git)?/?",
        address,
        re.ASCII,
    )
    if found is None or found[2] in (".", ".."):
        raise ValueError(
            f"'{address}' is not the address of a repository on GitHub, from where Colab and Kaggle open notebooks; "
            "write it as https://github.com/OWNER/NAME."
        )
    return f"https://github.com/{found[1]}/{found[2]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make publish", description="Set where the course is published, and build.")
    parser.add_argument(
        "--repository", required=True, metavar="ADDRESS", help='https://github.com/OWNER/NAME, or "" for nowhere'
    )
    arguments = parser.parse_args()
    try:
        address = set_address(arguments.repository, ROOT)
        report = notebooks.build()
    except ValueError as error:  # a SourceError or a BankError of the build, too
        print(error, file=sys.stderr)
        return 1
    print(f"Published at {address}." if address else "Published nowhere: no links to Colab and Kaggle.")
    print(f"{len(report.written)} notebooks written; commit them with pyproject.toml and README.md, and push to main.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
