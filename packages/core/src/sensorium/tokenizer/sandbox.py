"""The Jinja environment of chat templates, which limits what they call and consume.

A template's syntax tree is rewritten before it is compiled, so that every iteration of a loop,
every comparison and every list or text that it puts together passes the run's ``Meter``. Calls,
filters, tests and arithmetic pass it anyway. Filters, methods and functions whose cost can't be
told from their arguments are not available. Thus nothing has to be interrupted from outside: a run
that takes too long ends at its next step.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, pass_context, pass_eval_context
from jinja2.visitor import NodeTransformer

from sensorium.tokenizer.meter import Meter, TemplateLimitError

#: The meter of the run that this thread is in.
METER: ContextVar[Meter] = ContextVar("sensorium_template_meter")

#: The ``apart`` argument of the meter in ``METER``.
APART = (Namespace,)

#: Filters whose time or memory can't be bounded by looking at their arguments.
_NO_FILTERS = ("pprint", "striptags", "urlize", "wordwrap")
_METHODS = {
    str: frozenset(
        "capitalize casefold center count endswith find format index isalnum isalpha isascii "
        "isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join "
        "ljust lower lstrip partition removeprefix removesuffix replace rfind rindex rjust "
        "rpartition rsplit rstrip split splitlines startswith strip swapcase title upper "
        "zfill".split()
    ),
    dict: frozenset(("copy", "get", "items", "keys", "values")),
    list: frozenset(("copy", "count", "index")),
    tuple: frozenset(("count", "index")),
    float: frozenset(("is_integer",)),
}
#: The longest format that is searched for widths, and what may be a width in it.
_MAX_FORMAT = 16 * 2**10
_PERCENT_WIDTH = re.compile(r"%(?:\([^)]*\))?[-+ #0]*(?:\*|\d{5,}|\d*\.(?:\*|\d{5,}))")
_BRACE_WIDTH = re.compile(r"\{[^{}]*(?:\{|:[^{}]*\d{5,})")
_LONGEST_INDENT = 64
_LARGEST_COUNT = 100_000
_LONGEST_SPLIT = 2**22
#: Filters that make a list of what they get, which may be a text.
_LISTING = frozenset(("batch", "groupby", "list", "slice", "sort", "unique"))
#: Filters that take a text apart.
_SPLITTING = frozenset(("title", "urlencode", "wordcount"))


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """What a template is compiled in; it runs only where ``METER`` is set."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self, functions: Mapping[str, Any], filters: Mapping[str, Any]) -> None:
        # Not optimized: folding constants would compute them while it compiles.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            finalize=_shown,
            extensions=[GenerationTag, loopcontrols],
        )
        for name in _NO_FILTERS:
            del self.filters[name]
        self.filters.update(filters, sum=_sum)
        self.filters = {name: _metered(name, run) for name, run in self.filters.items()}
        self.filters |= {_LOOP: _Loop.over, _MADE: _made, _STEP: _stepped, _JOIN: _concatenated}
        self.tests = {name: _metered(name, run) for name, run in self.tests.items()}
        del self.globals["lipsum"]
        self.globals.update(functions)
        self.concat = _joined  # type: ignore[method-assign]

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        tree = _Rewriter().visit(tree)
        return tree.set_environment(self)  # type: ignore[no-any-return]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic, and what it means for texts and lists."""
        meter = METER.get()
        meter.step()
        _check_operands((left, right))
        if operator == "*":
            _check_product(meter, left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            if left.bit_length() * abs(right) > _LARGEST_COUNT:
                raise TemplateLimitError("it computes a power that is too large.")
        elif operator == "%" and isinstance(left, str):
            _check_format(left, _PERCENT_WIDTH)
        return meter.made(super().call_binop(context, operator, left, right))

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Any call in the template; a method only if its cost is known."""
        meter = METER.get()
        meter.step()
        method = getattr(obj, "__wrapped__", obj)
        owner = getattr(method, "__self__", None)
        for kind, allowed in _METHODS.items():
            if isinstance(owner, kind):
                name = str(getattr(method, "__name__", ""))
                if name not in allowed:
                    raise SecurityError(f"{kind.__name__}.{name} isn't there")
                _check_operands([*args, *kwargs.values()])
                if isinstance(owner, str):
                    args = _check_text_method(meter, owner, name, args, kwargs)
                break
        else:
            if isinstance(owner, (int, bytes, set, frozenset)):
                raise SecurityError(f"methods of {type(owner).__name__} aren't there")
        return meter.made(super().call(context, obj, *args, **kwargs))


class GenerationTag(Extension):
    """``{% generation %}`` marks assistants' text for training; here it only prints its body."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


# --- the rewritten tree -----------------------------------------------------------------

#: Names of filters that no template can write.
_LOOP, _MADE, _STEP, _JOIN = "a loop", "made", "a step", "joined"


class _Rewriter(NodeTransformer):
    """Wraps expressions that the environment has no hook for in filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _LOOP)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node.nodes[0], _JOIN, node.nodes[1:])

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        return _filtered(self.generic_visit(node), _STEP)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return _filtered(self.generic_visit(node), _MADE)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return _filtered(self.generic_visit(node), _MADE)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _MADE) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, _MADE) if isinstance(node.arg, nodes.Slice) else node


def _filtered(node: nodes.Node, name: str, args: Sequence[nodes.Expr] = ()) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None, lineno=node.lineno)


class _Loop:
    """What a loop runs over, a step an iteration."""

    __slots__ = ("_meter", "_values")

    def __init__(self, values: Any, meter: Meter) -> None:
        self._values = values
        self._meter = meter

    @classmethod
    def over(cls, values: Any) -> Any:
        """As a filter."""
        meter = METER.get()
        meter.step()
        return values if isinstance(values, Undefined) else cls(values, meter)

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._meter.step()
            yield value

    def __len__(self) -> int:
        return len(self._values)


def _made(value: Any) -> Any:
    meter = METER.get()
    meter.step()
    return meter.made(value)


def _stepped(value: Any) -> Any:
    METER.get().step()
    return value


@pass_eval_context
def _concatenated(context: EvalContext, *values: Any) -> Any:
    meter = METER.get()
    meter.step()
    _check_operands(values)
    meter.check_units(sum(meter.weight(value).units for value in values))
    return meter.made(markup_join(values) if context.autoescape else str_join(values))


def _joined(pieces: Any) -> str:
    """Joins the pieces of a macro, a block or a whole template, in place of Jinja's own join."""
    texts = list(pieces)
    meter = METER.get()
    meter.check_text(sum(map(len, texts)))
    return meter.made("".join(texts))


@pass_context
def _shown(_context: Context, value: Any) -> Any:
    """Each value that is printed."""
    meter = METER.get()
    meter.step()
    _check_operands((value,))
    meter.check_units(meter.weight(value).units)
    return value


# --- filters and methods ----------------------------------------------------------------


def _metered(name: str, function: Any) -> Callable[..., Any]:
    """A filter or test that counts as a step and whose result is weighed."""
    check = _CHECKS.get(name)

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.step()
        if name not in ("default", "d", "defined", "undefined", "attr"):
            _check_operands([*args, *kwargs.values()])
        if name in _SPLITTING:
            _check_split(str(args[0]))
        if name in _LISTING:
            meter.check_units(max((len(arg) for arg in args if isinstance(arg, str)), default=0))
        if check is not None:
            args, kwargs = check(meter, args, kwargs)
        return meter.made(function(*args, **kwargs))

    return metered


def _check_operands(values: Any) -> None:
    """Namespaces can hold anything, themselves included, so no list or mapping may hold one."""
    for value in values:
        if isinstance(value, APART):
            raise TemplateLimitError("it uses a namespace as a value.")


def _check_product(meter: Meter, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        return  # of integers of bounded length
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str) and isinstance(times, int):
            meter.check_text(len(value) * times)
        elif isinstance(value, (list, tuple)) and isinstance(times, int):
            meter.check_units(meter.weight(value).units * times)


def _check_format(text: str, width: re.Pattern[str]) -> None:
    plain = text.replace("{{", "").replace("}}", "") if width is _BRACE_WIDTH else text
    if len(text) > _MAX_FORMAT or width.search(plain):
        raise TemplateLimitError("it formats with a width that is too large.")


def _check_text_method(
    meter: Meter, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """The arguments, gone through where they are an iterator."""
    if name in ("center", "ljust", "rjust", "zfill") and args:
        meter.check_text(args[0] if isinstance(args[0], int) else 0)
    elif name == "format":
        _check_format(text, _BRACE_WIDTH)
    elif name == "replace":
        _check_replacement(meter, text, *args[:2])
    elif name in ("split", "rsplit", "splitlines"):
        _check_split(text)
    elif name == "join" and args:
        if isinstance(args[0], str):
            meter.check_units(len(args[0]))
        parts = list(args[0])
        _check_joined(meter, text, parts)
        return (parts, *args[1:])
    return args


def _check_split(text: str) -> None:
    if len(text) > _LONGEST_SPLIT:
        raise TemplateLimitError(f"it splits a text of more than {_LONGEST_SPLIT} characters.")


def _check_replacement(meter: Meter, text: str, old: Any = "", new: Any = "") -> None:
    if isinstance(old, str) and isinstance(new, str):
        times = text.count(old) if old else len(text) + 1
        meter.check_text(len(text) + times * len(new))


def _check_joined(meter: Meter, separator: str, parts: Sequence[Any]) -> None:
    meter.check_text(len(separator) * len(parts))
    meter.check_units(meter.weight(parts).units)


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def _check_join_filter(meter: Meter, args: Any, kwargs: Any) -> _Arguments:
    """``value|join(separator, attribute)`` behind the evaluation context."""
    context: EvalContext = args[0]
    named = dict(zip(("value", "d", "attribute"), args[1:], strict=False)) | kwargs
    if isinstance(named["value"], str):
        meter.check_units(len(named["value"]))
    values = list(named["value"])
    if (attribute := named.get("attribute")) is not None:
        values = list(map(make_attrgetter(context.environment, attribute), values))
    _check_joined(meter, str(named.get("d", "")), values)
    return (context, values, named.get("d", "")), {}


def _check_replace_filter(meter: Meter, args: Any, kwargs: Any) -> _Arguments:
    named = dict(zip(("s", "old", "new"), args[1:], strict=False)) | kwargs
    text, old, new = (str(named.get(name, "")) for name in ("s", "old", "new"))
    _check_replacement(meter, text, old, new)
    return args, kwargs


def _check_indent(meter: Meter, args: Any, kwargs: Any) -> _Arguments:
    """``text|indent(width)``: what it puts in front of each line is short."""
    _check_short([*args[1:], *kwargs.values()])
    meter.check_text(len(str(args[0])) + (str(args[0]).count("\n") + 1) * _LONGEST_INDENT)
    return args, kwargs


def _check_tojson(meter: Meter, args: Any, kwargs: Any) -> _Arguments:
    separators = kwargs.get("separators", args[3] if len(args) > 3 else None)
    _check_short([*args[2:3], kwargs.get("indent"), *(separators or ())])
    weight = meter.weight(args[0])
    if kwargs.get("indent", args[2] if len(args) > 2 else None) is not None:
        meter.check_units(weight.units * weight.depth * 2)
    return args, kwargs


def _check_short(values: Sequence[Any]) -> None:
    for value in values:
        if (isinstance(value, str) and len(value) > _LONGEST_INDENT) or (
            isinstance(value, int) and value > _LONGEST_INDENT
        ):
            raise TemplateLimitError(f"it indents or separates by more than {_LONGEST_INDENT}.")


def _check_counts(_meter: Meter, args: Any, kwargs: Any) -> _Arguments:
    """Filters that fill up to a number."""
    for value in (*args[1:], *kwargs.values()):
        if isinstance(value, int) and abs(value) > _LARGEST_COUNT:
            raise TemplateLimitError(f"it fills up to more than {_LARGEST_COUNT}.")
    return args, kwargs


def _check_format_filter(_meter: Meter, args: Any, kwargs: Any) -> _Arguments:
    _check_format(str(args[0]), _PERCENT_WIDTH)
    return args, kwargs


_CHECKS: Mapping[str, Callable[[Meter, Any, Any], _Arguments]] = {
    "batch": _check_counts,
    "center": _check_counts,
    "format": _check_format_filter,
    "indent": _check_indent,
    "join": _check_join_filter,
    "replace": _check_replace_filter,
    "round": _check_counts,
    "slice": _check_counts,
    "tojson": _check_tojson,
}


@pass_eval_context
def _sum(
    context: EvalContext, values: Any, attribute: str | int | None = None, start: Any = 0
) -> Any:
    """Jinja's filter, each addition a step of its own."""
    if attribute is not None:
        values = map(make_attrgetter(context.environment, attribute), values)
    meter = METER.get()
    for value in values:
        meter.step()
        start = meter.made(start + value)
    return start
