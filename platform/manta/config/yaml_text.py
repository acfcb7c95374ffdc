"""The one place where Manta reads YAML: `read_yaml` checks the text before it builds any value.

A few hundred bytes can name gigabytes with aliases of aliases, so what the aliases stand for is counted first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from manta.errors import InputError

MOST_CHARACTERS = 1_000_000
MOST_ALIASED = 1_000
"""The largest number of values that all aliases of a text may stand for."""
MOST_LEVELS = 50
TOO_DEEP = f"nested deeper than {MOST_LEVELS} levels"
NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"-?(?:0|[1-9][0-9]{0,99})$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}
"""Numbers are decimal digits. PyYAML's other notations, such as 90:00, 010 and 1_000, stay text."""


MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with fewer forms of numbers, and with the line of a value that cannot be built."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own name
        first: [(tag, NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803  # PyYAML's own name
        """Begin a list or mapping in brackets. PyYAML takes seconds for a thousand of them within each other."""
        if self.flow_level >= MOST_LEVELS:
            raise yaml.scanner.ScannerError(None, None, TOO_DEEP, self.get_mark())
        super().fetch_flow_collection_start(TokenClass)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Build a value. Errors such as a day that does not exist get the place."""
        try:
            return super().construct_object(node, deep=deep)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, f"{error}; quote it", node.start_mark) from None


def read_yaml(text: str, *, source: str) -> Any:
    """Return YAML text as plain data. Messages name it by `source`.

    Raises:
        InputError: the text is not YAML, is too large, or gives a key twice; the message has the line.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{source}: {len(text):,} characters are too many for a YAML file; the most are {MOST_CHARACTERS:,}.")
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _check(root, source=source)
        return loader.construct_document(root)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, int(error.position)) + 1
        raise InputError(f"{source}:{line}: not valid YAML ({error.reason}).") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        if error.problem == TOO_DEEP:
            raise InputError(f"{source}:{mark.line + 1 if mark else 1}: {TOO_DEEP}.") from None
        where = f":{mark.line + 1}" if mark and "\n" in text else ""
        raise InputError(f"{source}{where}: not valid YAML ({_problem(error)}).") from None
    except RecursionError:
        raise InputError(f"{source}: not valid YAML ({TOO_DEEP}).") from None
    finally:
        if loader is not None:
            loader.dispose()


def _problem(error: yaml.MarkedYAMLError) -> str:
    """Return what PyYAML says is wrong, in words of people who write YAML."""
    problem, context = str(error.problem or ""), str(error.context or "")
    if "found character '\\t'" in problem:
        return "a tab stands where a line is indented; indent with blanks"
    if problem.startswith("could not determine a constructor for the tag"):
        return f"the tag {problem.rsplit(' ', 1)[-1]} is unknown; remove it"
    if problem.startswith("mapping values are not allowed"):
        return "a colon too many, or a line indented too far; quote a text that holds ': '"
    return f"{context}, {problem}" if problem.startswith("but ") else problem or context


def places_in(text: str, *, source: str) -> dict[str, str]:
    """Return the place of each key, such as `e.yaml:12`, of a text that `read_yaml` accepts, by its dotted name."""
    places: dict[str, str] = {}
    loader = _Loader(text)

    def walk(node: yaml.Node | None, outer: str) -> None:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        for key, value in sorted(pairs, key=lambda pair: bool(pair[0].tag == MERGE)):
            if key.tag == MERGE:  # <<: *name, whose settings are those of the section itself
                for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    walk(merged, outer)
                continue
            name = f"{outer}{loader.construct_object(key, deep=True)}"
            places.setdefault(name, f"{source}:{key.start_mark.line + 1}")
            walk(value, f"{name}.")

    walk(loader.get_single_node(), "")
    return places


def nearest_place(places: Mapping[str, str], name: str) -> str | None:
    """Return the place of a key, or of the innermost section around it that has one."""
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places.get(name)


def _check(root: yaml.Node, *, source: str) -> None:
    """Check a parsed text in one walk, in which each node is visited once.

    Raises:
        InputError: a key is given twice, aliases stand for too much, or values are nested too deeply.
    """
    sizes: dict[yaml.Node, int] = {}

    def size(node: yaml.Node, outer: tuple[yaml.Node, ...]) -> int:
        line = f"{source}:{node.start_mark.line + 1}"
        if node in outer:
            raise InputError(f"{line}: the value contains itself through an alias; write it out.")
        if len(outer) > MOST_LEVELS:
            raise InputError(f"{line}: {TOO_DEEP}.")
        if node not in sizes:
            parts = _parts(node, source=source)
            sizes[node] = 1 + sum(size(part, (*outer, node)) for part in parts)
        return sizes[node]

    if size(root, ()) - len(sizes) > MOST_ALIASED:
        raise InputError(f"{source}: its aliases (*name) stand for more than {MOST_ALIASED:,} values; write the values out.")


def _parts(node: yaml.Node, *, source: str) -> list[yaml.Node]:
    """Return what a list or a mapping holds, after checking that the mapping has each key once."""
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    if not isinstance(node, yaml.MappingNode):
        return []
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        name, line = (key.tag, str(key.value)), key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode) and name in lines:
            raise InputError(f"{source}: {key.value} is given twice, on line {lines[name]} and on line {line}; keep one of them.")
        lines[name] = line
    return [part for pair in node.value for part in pair]
