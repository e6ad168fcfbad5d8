"""From YAML text to its documents, as strictly as an API server reads them, with variables filled in.

Variables are set aside before PyYAML sees their braces, and filled in once it has composed its tree of nodes, before a
value becomes a number or a text, so that `{minReplicas: ${MIN:-1}}` is a number, and no value can change the structure.
Texts in block style (| and >) are left as they are: they hold programs, and programs have dollar signs of their own.
A key that is there twice, a key that is not a text, and a document that grows out of bounds through its aliases are
refused, with their lines.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_VARIABLE = re.compile(r"\$(?P<literal>\$)?\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}\n]*))?\}")
# Stands for the n-th variable of a text: characters that are nobody's, and that YAML takes in any value.
_MARK = re.compile("\ue000([0-9]+)\ue001")
_MAX_NODES = 100_000
_STRING = "tag:yaml.org,2002:str"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class YamlDocument:
    """One document of a text: its value, or what is wrong with it."""

    number: int  # from 1
    line: int  # from 1
    value: object = None
    problem: str = ""
    remedy: str = ""


class TextProblem(Exception):
    """What is wrong with a text, and where."""

    def __init__(self, message: str, remedy: str, line: int) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.line = line


class _Loader(yaml.SafeLoader):
    """Reads dates as texts, as an API server does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def documents(text: str, variables: Mapping[str, str]) -> Iterator[YamlDocument]:
    """The documents of a text, empty ones left out; what stands after a mistake in the syntax cannot be read."""
    found = list(_VARIABLE.finditer(text))
    indexes = iter(range(len(found)))
    marked = _VARIABLE.sub(lambda _: f"\ue000{next(indexes)}\ue001", text)
    try:
        loader = _Loader(marked)
    except yaml.reader.ReaderError as error:
        yield _forbidden_character(error, marked)
        return
    try:
        yield from _documents(loader, _Variables(found, variables))
    finally:
        loader.dispose()


def _documents(loader: _Loader, variables: "_Variables") -> Iterator[YamlDocument]:
    number = 1
    try:
        while loader.check_node():
            if (node := loader.get_node()) is not None:
                yield from _document(loader, node, number, variables)
            number += 1
    except yaml.MarkedYAMLError as error:
        yield _broken_syntax(error, number)
    except RecursionError:
        yield YamlDocument(number, 1, problem="it is nested too deeply", remedy="write it flatter")


def _document(loader: _Loader, node: Node, number: int, variables: "_Variables") -> Iterator[YamlDocument]:
    try:
        _measure(node, {}, set())
        _prepare(node, loader, variables, set())
        value = loader.construct_document(node)
    except TextProblem as error:
        yield YamlDocument(number, _line(node), problem=f"line {error.line}: {error.message}", remedy=error.remedy)
    except yaml.constructor.ConstructorError as error:  # a tag that only a program understands, for example !!python
        line = error.problem_mark.line + 1 if error.problem_mark else _line(node)
        yield YamlDocument(number, _line(node), problem=f"line {line}: {error.problem}", remedy="use plain YAML values")
    except ValueError as error:  # !!int with letters in it
        yield YamlDocument(number, _line(node), problem=str(error), remedy="use plain YAML values")
    else:
        if value is not None:
            yield YamlDocument(number, _line(node), value=value)


def _forbidden_character(error: yaml.reader.ReaderError, text: str) -> YamlDocument:
    line = text.count("\n", 0, error.position) + 1
    problem = f"line {line}: the character U+{int(error.character):04X} is not allowed in YAML"
    return YamlDocument(1, line, problem=problem, remedy="remove that character")


def _broken_syntax(error: yaml.MarkedYAMLError, number: int) -> YamlDocument:
    mark = error.problem_mark or error.context_mark
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    what = " ".join(part for part in (error.context, error.problem) if part)
    remedy = "correct the YAML there; a tab cannot indent, and a text with ': ' or '{' needs quotes"
    return YamlDocument(number, line, problem=f"line {line}, column {column}: {what}", remedy=remedy)


def _measure(node: Node, known: dict[int, int], open_nodes: set[int]) -> int:
    """Nodes below this one with every alias written out.

    Raises:
        TextProblem: too many, or a node that contains itself.
    """
    if id(node) in known:
        return known[id(node)]
    if id(node) in open_nodes:
        raise TextProblem("an alias contains itself", "write the value out", _line(node))
    open_nodes.add(id(node))
    size = 1 + sum(_measure(child, known, open_nodes) for child in _children(node))
    open_nodes.discard(id(node))
    if size > _MAX_NODES:
        raise TextProblem(f"it has more than {_MAX_NODES} values", "write fewer, or fewer aliases", _line(node))
    known[id(node)] = size
    return size


def _prepare(node: Node, loader: _Loader, variables: "_Variables", done: set[int]) -> None:
    """Fills in the variables below a node, and refuses keys that an API server would refuse.

    Raises:
        TextProblem: a variable without a value, or such a key.
    """
    if id(node) in done:
        return
    done.add(id(node))
    if isinstance(node, ScalarNode):
        _fill_in(node, loader, variables)
    if isinstance(node, MappingNode):
        _check_keys(node)
    for child in _children(node):
        _prepare(child, loader, variables, done)


def _fill_in(node: ScalarNode, loader: _Loader, variables: "_Variables") -> None:
    if not _MARK.search(node.value):
        return
    if node.style in {"|", ">"}:
        node.value = _MARK.sub(variables.as_written, node.value)
        return
    node.value = _MARK.sub(lambda mark: variables.value(mark, _line(node)), node.value)
    if node.style is None:  # not quoted: what it is, a number or a text, shows only now
        node.tag = loader.resolve(ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class _Variables:
    """The variables that a text names, in their order, and the values that there are."""

    found: list[re.Match[str]]
    values: Mapping[str, str]

    def as_written(self, mark: re.Match[str]) -> str:
        index = int(mark[1])
        return self.found[index][0] if index < len(self.found) else mark[0]

    def value(self, mark: re.Match[str], line: int) -> str:
        """What to put in the place of a mark.

        Raises:
            TextProblem: the variable has neither a value nor a default.
        """
        if (index := int(mark[1])) >= len(self.found):
            return mark[0]
        found = self.found[index]
        if found["literal"]:
            return found[0][1:]
        name, default = found["name"], found["default"]
        if default is not None:
            return self.values.get(name) or default
        if name not in self.values:
            remedy = f"set {name}, or write ${{{name}:-default}}; $${{{name}}} keeps the text as it is"
            raise TextProblem(f"the variable {name} is not set", remedy, line)
        return self.values[name]


def _check_keys(node: MappingNode) -> None:
    seen: set[str] = set()
    for key, _ in node.value:
        if key.tag == _MERGE:
            continue
        if not isinstance(key, ScalarNode) or key.tag != _STRING:
            shown = key.value if isinstance(key, ScalarNode) else "a list or mapping"
            raise TextProblem(f"the key {shown} is not a text", "quote it", _line(key))
        if key.value in seen:
            raise TextProblem(f"the key {key.value!r} is there twice", "keep one of them", _line(key))
        seen.add(key.value)


def _children(node: Node) -> Iterator[Node]:
    if isinstance(node, SequenceNode):
        yield from node.value
    elif isinstance(node, MappingNode):
        for key, value in node.value:
            yield from (key, value)


def _line(node: Node) -> int:
    return int(node.start_mark.line) + 1
