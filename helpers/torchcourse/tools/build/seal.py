"""The mark of a generated notebook: its source and a digest, by which the build sees whether a hand has changed it."""

import copy
import hashlib
import json

import nbformat
from nbformat.notebooknode import NotebookNode


def stamp(notebook: NotebookNode, source: str) -> NotebookNode:
    """Write into the notebook's metadata that it is generated from `source`, with a digest of the rest of it."""
    notebook.metadata["torchcourse"] = {"generated_from": source}
    notebook.metadata["torchcourse"]["digest"] = _digest(notebook)
    return notebook


def is_untouched(text: str) -> bool:
    """Whether the text of a notebook file is exactly what a build once wrote."""
    try:
        notebook = nbformat.reads(text, as_version=4)
        recorded = notebook.metadata.torchcourse.digest
    except (ValueError, AttributeError, nbformat.reader.NotJSONError):
        return False
    return recorded == _digest(notebook)


def _digest(notebook: NotebookNode) -> str:
    bare = copy.deepcopy(notebook)
    bare.metadata.get("torchcourse", {}).pop("digest", None)
    canonical = json.dumps(bare, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
