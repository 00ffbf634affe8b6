"""What a chat template does with a message's content: iterate over parts, or print a string.

Reads the template's syntax tree; renders nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes

_CONTENT = "content"
#: Tests that a template makes to tell a string from a list of parts.
_TYPE_TESTS = frozenset({"string", "iterable", "sequence", "mapping"})


def iterates_over_parts(tree: nodes.Template) -> bool:
    """Whether a loop runs over ``message.content``, under whatever name it was given."""
    names = _content_names(tree)
    return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def tells_strings_apart(tree: nodes.Template) -> bool:
    """Whether the template asks if content is a string, and so takes both forms."""
    names = _content_names(tree)
    return any(
        test.name in _TYPE_TESTS and _is_content(test.node, names)
        for test in tree.find_all(nodes.Test)
    )


def _content_names(tree: nodes.Template) -> frozenset[str]:
    """Variables and macro parameters that stand for a content."""
    names: frozenset[str] = frozenset()
    while True:
        more = names | set(_assigned(tree, names)) | set(_passed(tree, names))
        if more == names:
            return names
        names = more


def _assigned(tree: nodes.Template, names: frozenset[str]) -> Iterator[str]:
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, names):
            yield assign.target.name


def _passed(tree: nodes.Template, names: frozenset[str]) -> Iterator[str]:
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    for call in tree.find_all(nodes.Call):
        macro = macros.get(call.node.name) if isinstance(call.node, nodes.Name) else None
        if macro is None:
            continue
        for parameter, argument in zip(macro.args, call.args, strict=False):
            if _is_content(argument, names):
                yield parameter.name
        for keyword in call.kwargs:
            if _is_content(keyword.value, names):
                yield keyword.key


def _is_content(node: nodes.Node | None, names: frozenset[str]) -> bool:
    """``x.content``, ``x["content"]`` or a name for it, filtered, sliced or conditional."""
    match node:
        case nodes.Getattr(attr=attr):
            return attr == _CONTENT
        case nodes.Getitem(arg=nodes.Const(value=value)):
            return bool(value == _CONTENT)
        case nodes.Getitem(node=inner, arg=nodes.Slice()) | nodes.Filter(node=inner):
            return _is_content(inner, names)
        case nodes.CondExpr(expr1=first, expr2=second):
            return _is_content(first, names) or _is_content(second, names)
        case nodes.Name(name=name):
            return name in names
    return False
