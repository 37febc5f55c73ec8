"""How the quiz reads YAML: its banks, and what the cards say around a question."""

from typing import Any

import yaml


def parse(text: str) -> Any:
    """Return what the text says.

    Raises:
        yaml.YAMLError: if it is not YAML, or a key stands twice in one group.
    """
    return yaml.load(text, Loader=_Loader)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the fast one is not everywhere
    """Reads YAML as `safe_load` does, but refuses a key that stands twice instead of forgetting the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _value in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' stands twice", key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep=deep)
