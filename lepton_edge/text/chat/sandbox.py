"""Where chat templates run: Jinja's immutable sandbox, with a bound on the time and the memory that a template takes.

A template is a program from a stranger. The sandbox keeps it from attributes and files; a `Budget` bounds the rest: in
every turn of a loop, every call and every filter it counts the characters and items that are made, and looks at the
clock. What could become huge in one go (`*`, `**`, padding, replacing, joining) is refused before it is done.
This module is the one that imports jinja2.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import TemplateError, nodes, pass_context, pass_environment
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

SECONDS = 10.0  # a long conversation takes 0.01 s on a PC
MEMORY = 128 << 20  # characters made in all, a list's item counting as ITEM of them
ITEM = 64  # about what an object takes
LITERAL = 8  # the same, for an expression in a loop's body: not each makes an object
WIDEST = 10_000  # a number that pads or repeats text
MOST_BITS = 1 << 16  # of a whole number

# Methods that nobody needs and that make text huge.
UNSAFE_METHODS = frozenset({"translate", "maketrans", "expandtabs", "to_bytes", "format_map"})
PADDING = frozenset({"center", "ljust", "rjust", "zfill"})
# Filters whose arguments say how much longer their value becomes.
GROWING = frozenset({"center", "indent", "wordwrap", "batch", "slice", "round", "replace"})
# Filters that leave a container's items as they are; the others may write all of it as text.
SHALLOW = frozenset({
    "length", "count", "first", "last", "items", "list", "map", "select", "reject", "selectattr", "rejectattr",
    "default", "d", "attr", "reverse",
})  # fmt: skip
REMOVED_FILTERS = ("urlize", "pprint", "random", "xmlattr", "filesizeformat", "striptags")
REMOVED_GLOBALS = ("lipsum", "cycler", "joiner")
WIDE_PERCENT = re.compile(r"%[^a-zA-Z%]*(?:\d{4}|\*)")
WIDE_FIELD = re.compile(r"\{[^{}]*[:.][^{}]*(?:\d{4}|\{)")


class Exhausted(Exception):
    """A template took more time or memory than it may."""


class Budget:
    """What one rendering may still use."""

    def __init__(self) -> None:
        self._left = MEMORY
        self._ends = time.monotonic() + SECONDS

    def charge(self, size: int) -> None:
        """`size` characters were made. Raises Exhausted."""
        self._left -= size
        self.require(0)

    def require(self, size: int) -> None:
        """`size` more characters are going to be made. Raises Exhausted if they are too many."""
        if size > self._left:
            raise Exhausted(f"it makes more than {MEMORY >> 20} million characters")
        if time.monotonic() > self._ends:
            raise Exhausted(f"it takes more than {SECONDS:g} s")

    def written(self, value: Any) -> int:
        """Characters of `value` as text or JSON, at least; stops counting where they are too many."""
        if isinstance(value, str):
            return len(value)
        total, stack = 0, [value]
        while stack and total <= self._left:
            item = stack.pop()
            total += len(item) if isinstance(item, str) else ITEM
            if isinstance(item, dict):
                stack += item.keys()
                stack += item.values()
            elif isinstance(item, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView):
                stack += item
        return total


_budget: ContextVar[Budget] = ContextVar("budget")


@contextmanager
def budget() -> Iterator[Budget]:
    """A new budget for what is compiled or rendered inside."""
    token = _budget.set(Budget())
    try:
        yield _budget.get()
    finally:
        _budget.reset(token)


def size(value: Any) -> int:
    """Characters that `value` itself takes, without what it refers to."""
    if isinstance(value, str | bytes):
        return len(value)
    return ITEM * len(value) if isinstance(value, list | tuple | set | frozenset | dict) else 0


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of chat templates: what Hugging Face gives them, within the budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # nothing is computed while compiling
            finalize=_written,
            extensions=[Generation, LoopControlExtension],
        )
        for name in REMOVED_FILTERS:
            del self.filters[name]
        for name in REMOVED_GLOBALS:
            del self.globals[name]
        self.filters |= {"tojson": to_json, "join": join, "sum": total}
        self.filters = {name: _bounded(name, function) for name, function in self.filters.items()}
        self.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
            "dict": make_dict,
            "namespace": make_namespace,
        }

    def tree(self, source: str, name: str, filename: str) -> nodes.Template:
        """The parsed template, in which loops and `~` go through the budget."""
        tree = self.parse(source, name, filename)
        Counted().visit(tree)
        tree.set_environment(self)
        return tree

    def tick(self, weight: int) -> None:
        """One turn of a loop whose body has so many characters and expressions."""
        _budget.get().charge(weight)

    def concat_text(self, *values: Any) -> str:
        """The `~` operator."""
        _budget.get().require(sum(map(_budget.get().written, values)))
        return "".join(map(str, values))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        return attr not in UNSAFE_METHODS and super().is_safe_attribute(obj, attr, value)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _budget.get().require(_size_of_result(operator, left, right))
        result = super().call_binop(context, operator, left, right)
        _budget.get().charge(size(result))
        return result

    # As in Jinja, the first names are mangled, so that a template may give arguments any name.
    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        _check_method(__obj, args)
        result = super().call(__context, __obj, *args, **kwargs)
        _budget.get().charge(ITEM + size(result))
        return result

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def format_text(*args: Any, **kwargs: Any) -> str:
            if WIDE_FIELD.search(value.__self__):
                raise Exhausted("str.format with a field of its own width, or one above 999")
            _budget.get().require(_budget.get().written([*args, *kwargs.values()]) * (1 + value.__self__.count("{")))
            return wrapped(*args, **kwargs)

        return format_text


class Counted(NodeTransformer):
    """Puts the budget into a template's tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        weight = sum(_weight(part) for part in node.body)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("tick", [nodes.Const(weight)], node.lineno), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concat_text", node.nodes, node.lineno)


class Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks what a model writes, for training; here it is only a block."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's own

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


class TemplateNamespace(Namespace):
    """Jinja's namespace, without names that begin with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<namespace>"


def raise_exception(message: Any) -> None:
    """A template's way of refusing a conversation."""
    raise TemplateError(str(message))


def now() -> datetime:
    """The time that templates are told."""
    return datetime.now()


def strftime_now(format: str) -> str:
    """The local time, written as strftime does."""
    if not isinstance(format, str) or WIDE_PERCENT.search(format):
        raise Exhausted("strftime_now with a field wider than 999")
    return now().strftime(format)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON that a model reads: nothing is escaped for HTML."""
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > 16:
        raise Exhausted(f"tojson with an indent of {width}")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@pass_environment
def join(environment: Sandbox, value: Any, d: str = "", attribute: str | int | None = None) -> str:
    """Items as text, with `d` between them."""
    items = list(value if attribute is None else map(make_attrgetter(environment, attribute), value))
    _budget.get().require(_budget.get().written(items) + len(items) * len(d))
    return str(d).join(map(str, items))


@pass_environment
def total(environment: Sandbox, value: Any, attribute: str | int | None = None, start: float = 0) -> float:
    """The sum of numbers."""
    if not isinstance(start, int | float):
        raise Exhausted("sum of something else than numbers")
    return sum(value if attribute is None else map(make_attrgetter(environment, attribute), value), start)


def make_dict(*args: Any, **kwargs: Any) -> dict[Any, Any]:
    """`dict(…)`; the class itself would be a way out of the sandbox."""
    return dict(*args, **kwargs)


def make_namespace(*args: Any, **kwargs: Any) -> TemplateNamespace:
    """`namespace(…)`: what a loop may write to."""
    values = dict(*args, **kwargs)
    for name in values:
        _check_name(name)
    return TemplateNamespace(values)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have {name!r}; expected a name without a leading underscore")


@pass_context  # so that Jinja does not call it while compiling
def _written(context: Context, value: Any) -> Any:
    """Called with every value that is written."""
    _budget.get().charge(_budget.get().written(value))
    return value


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)  # which copies Jinja's marks
    def bounded(*args: Any, **kwargs: Any) -> Any:
        allowed = _budget.get()
        value, others = (args[first] if len(args) > first else None), (*args[first + 1 :], *kwargs.values())
        if name not in SHALLOW:
            allowed.require(allowed.written(value))
        if name in GROWING:
            allowed.require((size(value) + 1) * max([1, *map(_growth, others)]))
        result = function(*args, **kwargs)
        allowed.charge(ITEM + size(result))
        return result

    return bounded


def _growth(argument: Any) -> int:
    """How many times longer an argument may make a text."""
    if isinstance(argument, int) and argument > WIDEST:
        raise Exhausted(f"the number {argument if argument < 1 << 64 else 'above 2^64'} given to what repeats text")
    return argument if isinstance(argument, int) else size(argument)


def _check_method(method: Any, args: tuple[Any, ...]) -> None:
    """Refuses a call of a string's method whose result would be too long."""
    text, name = getattr(method, "__self__", None), getattr(method, "__name__", "")
    if not isinstance(text, str | bytes):
        return
    allowed = _budget.get()
    if name in PADDING:
        allowed.require(max([0, *map(_growth, args)]))
    elif name == "replace":
        allowed.require((len(text) + 1) * max([1, *map(size, args)]))
    elif name == "join" and args and isinstance(args[0], list | tuple | dict | set):
        allowed.require(allowed.written(args[0]) + len(text) * len(args[0]))


def _size_of_result(operator: str, left: Any, right: Any) -> int:
    """Characters that an operator's result has; raises Exhausted for numbers and fields that are too large."""
    if operator == "+":
        return size(left) + size(right)
    if operator == "%" and isinstance(left, str | bytes):
        if not isinstance(left, str) or WIDE_PERCENT.search(left):
            raise Exhausted("a % field wider than 999")
        return len(left) + _budget.get().written(right) * (1 + left.count("%"))
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
        if operator != "%" and bits > MOST_BITS:
            raise Exhausted(f"a whole number of more than {MOST_BITS} bits")
    elif operator == "*":
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        return size(sequence) * max(times, 0) if isinstance(times, int) else 0
    return 0


def _call(method: str, args: list[Any], line: int) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method, lineno=line), args, [], None, None, lineno=line)


def _weight(node: nodes.Node) -> int:
    """What a turn of a loop may make at most by literals alone."""
    literal = len(node.data) if isinstance(node, nodes.TemplateData) else LITERAL
    return literal + sum(_weight(child) for child in node.iter_child_nodes())
