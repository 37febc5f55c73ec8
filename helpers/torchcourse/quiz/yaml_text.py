"""How the quiz reads and writes YAML: its banks, and what the cards say around a question.

Numbers are read as YAML 1.2 says (https://yaml.org/spec/1.2.2/#103-core-schema): 010 is ten, 1e-3 a number, and 1:30,
No and 2026-01-02 are texts. PyYAML by itself reads version 1.1, where they are 8, a text, 90, a truth value and a date.
"""

import re
from typing import Any, ClassVar

import yaml


def parse(text: str) -> Any:
    """Return what the text says.

    Raises:
        yaml.YAMLError: if it is not YAML, if a key is there twice in one group, or if a text ends at a comma that seems
            to belong to it.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise yaml.YAMLError(f"a value cannot be read: {reason}.") from None


def write(data: Any) -> str:
    """Return plain data as YAML, with quotes around each text that a reader of YAML 1.1 or 1.2 takes for a number."""
    return yaml.dump(data, Dumper=_Dumper, allow_unicode=True, sort_keys=False, width=110)


_NUMBERS = [
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("tag:yaml.org,2002:float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
]
_WORDS = [
    ("tag:yaml.org,2002:bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:null", "~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("tag:yaml.org,2002:merge", "<<", "<"),
]


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # the fast one is not everywhere
    """Reads YAML as `safe_load` does, less what the module's docstring says, and forgets nothing without a word."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, value in node.value:
            name = getattr(key, "value", None)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key '{name}' is here twice", key.start_mark)
            seen.add(name)
            if node.flow_style:
                _refuse_cut(value)
                # A key without a value is what comes after a comma of a text.
                if value.value == "" and not value.style and value.start_mark.index == value.end_mark.index:
                    raise _cut(key)
        return super().construct_mapping(node, deep=deep)

    def construct_sequence(self, node: yaml.SequenceNode, deep: bool = False) -> list[Any]:
        if node.flow_style:
            _refuse_cut_list(node.value)
        return super().construct_sequence(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 16 if text.startswith("0x") else 10)


class _Dumper(yaml.SafeDumper):
    """Writes as `safe_dump` does."""


for _tag, _form, _first in (*_NUMBERS, *_WORDS):
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), list(_first))
for _tag, _form, _first in _NUMBERS:
    _Dumper.add_implicit_resolver(_tag, re.compile(f"^(?:{_form})$"), list(_first))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def _refuse_cut(node: yaml.Node) -> None:
    """Refuse a text without quotes, between brackets, that opens a bracket and does not close it, or the reverse."""
    if isinstance(node, yaml.ScalarNode) and not node.style:
        text = node.value
        if any(text.count(opening) != text.count(closing) for opening, closing in ("()", "[]", "{}")):
            raise _cut(node)


def _refuse_cut_list(items: list[yaml.Node]) -> None:
    """Refuse a list between brackets in which YAML may have split a text at its comma: nobody can tell afterward."""
    for place, item in enumerate(items, start=1):
        _refuse_cut(item)
        if len(items) == 1 or not isinstance(item, yaml.ScalarNode) or item.style:
            continue
        if place < len(items) and items[place].start_mark.index == item.end_mark.index + 1:
            raise _cut(item)  # no space behind the comma, as in 1,000
        if len(item.value.split()) > 1:
            problem = f"'{item.value}' has several words; between brackets put such a text between quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, item.start_mark)


def _cut(node: yaml.Node) -> yaml.constructor.ConstructorError:
    problem = f"'{node.value}' is cut off at a comma; put the whole text between quotes"
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
