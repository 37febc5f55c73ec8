"""A page for each room of the package, made of the docstrings of its modules by Sphinx's autodoc."""

from pathlib import Path

LEFT_OUT = {"cases", "programs", "checks", "tools"}
"""Rooms below a wing that an engineer does not import: patients of the clinic, and checks of exercises."""

HEAD = """\
# The package

What lessons and engineers import, from the docstrings. The ground first: what several lessons use. Then a page for each
lesson. Checks of exercises and the modules that only draw are left out.

```{toctree}
:maxdepth: 1

"""


def pages_of(package: Path) -> dict[str, str]:
    """Return the pages as Markdown by their paths on the site. `package` is the folder of torchcourse."""
    ground = [path for path in sorted(package.iterdir()) if path.name not in ("lessons", "tools") and _is_room(path)]
    rooms = [*ground, *(path for path in sorted((package / "lessons").iterdir()) if _is_room(path))]
    pages = {f"api/{room.stem}.md": _page(room, package) for room in rooms}
    toctree = "\n".join(path.removeprefix("api/").removesuffix(".md") for path in pages)
    return {"api/index.md": f"{HEAD}{toctree}\n```\n"} | pages


def modules_of(room: Path, package: Path) -> list[str]:
    """Return the full names of a room's public modules, the room itself first."""
    files = [room] if room.suffix == ".py" else sorted(room.rglob("*.py"), key=_parents_first)
    names = []
    for file in files:
        parts = list(file.relative_to(package).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        below = parts[len(room.relative_to(package).parts) :]
        private = any(part.startswith("_") for part in parts)
        if not private and not LEFT_OUT & set(below) and not parts[-1].endswith("_picture"):
            names.append(".".join([package.name, *parts]))
    return names


def _is_room(path: Path) -> bool:
    return not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())


def _parents_first(path: Path) -> tuple[str, bool, str]:
    return (path.parent.as_posix(), path.name != "__init__.py", path.name)


def _page(room: Path, package: Path) -> str:
    modules = modules_of(room, package)
    parts = [f"# {modules[0].removeprefix('torchcourse.').removeprefix('lessons.')}\n"]
    for name in modules:
        title = f"\n## {name}\n" if len(modules) > 1 else ""
        parts.append(f"{title}\n```{{eval-rst}}\n.. automodule:: {name}\n   :members:\n   :ignore-module-all:\n```\n")
    return "".join(parts)
