"""Python functions as tools: type hints and docstring to the JSON schema that chat templates write."""

from __future__ import annotations

import enum
import inspect
import json
import re
import types
import typing
from collections.abc import Callable
from typing import Any

from lepton_edge.errors import RequestError

SCALARS: dict[type, str] = {int: "integer", float: "number", str: "string", bool: "boolean", type(None): "null"}
PLAIN: dict[Any, dict[str, Any]] = {
    **{kind: {"type": name} for kind, name in SCALARS.items()},
    list: {"type": "array"},
    tuple: {"type": "array"},
    dict: {"type": "object"},
    Any: {},
}
SECTION = re.compile(r"^(Args|Arguments|Parameters|Returns|Raises|Yields|Examples?|Notes?):[ \t]*$", re.MULTILINE)
ARGUMENT = re.compile(r"^(\s*)\*{0,2}(\w+)[ \t]*(?:\([^()]*\))?:[ \t]*(.*)$")
CHOICES = re.compile(r"\s*\(choices:\s*(\[.*\])\)\s*$", re.IGNORECASE)


def function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    """A function as {"type": "function", "function": {"name", "description", "parameters"}}.

    Every argument needs a type hint and a line in the docstring's `Args:` section (Google style); one that ends in
    `(choices: ["a", "b"])` lists its values. A `Returns:` section and hint are added as "return".

    Raises:
        RequestError: a hint or a description is missing, or a type has no JSON schema; naming it.
    """
    name = getattr(function, "__name__", type(function).__name__)
    where = f"the tool {name}"
    try:
        signature, hints = inspect.signature(function), typing.get_type_hints(function)
    except (TypeError, ValueError, NameError) as error:
        raise RequestError(f"{where}: its type hints cannot be read ({error}); pass a JSON schema instead") from None
    doc = inspect.getdoc(function) or ""
    about, sections = _sections(doc)
    if not about:
        raise RequestError(f"{where} has no docstring; expected one that tells the model what it does")
    described = _arguments(sections.get("Args", ""))
    properties: dict[str, Any] = {}
    required = []
    for index, (argument, parameter) in enumerate(signature.parameters.items()):
        if index == 0 and argument in ("self", "cls") and argument not in hints:
            continue
        if argument not in hints:
            raise RequestError(f"{where}: its argument {argument} has no type hint; add one")
        if argument not in described:
            raise RequestError(f"{where}: its argument {argument} is not in the docstring's Args section; describe it")
        properties[argument] = _property(hints[argument], described[argument], f"{where}: its argument {argument}")
        if parameter.default is inspect.Parameter.empty:
            required.append(argument)
    parameters = {"type": "object", "properties": properties, **({"required": required} if required else {})}
    made = {"name": name, "description": about, "parameters": parameters}
    if "return" in hints:
        made |= _return(hints["return"], sections.get("Returns", ""))
    return {"type": "function", "function": made}


def _property(hint: Any, text: str, where: str) -> dict[str, Any]:
    made = _schema(hint, where)
    choices = CHOICES.search(text)
    if choices:
        try:
            made["enum"] = json.loads(choices[1])
        except ValueError:
            raise RequestError(f"{where}: its choices {choices[1]} are not a JSON list; correct them") from None
        text = text[: choices.start()]
    return {**made, "description": text.strip()}


def _return(hint: Any, text: str) -> dict[str, Any]:
    """{"return": schema}; nothing for a type that has no schema, as the model never writes it."""
    try:
        made = _schema(hint, "")
    except RequestError:
        return {}
    text = text.strip()
    return {"return": {**made, "description": text} if text else made}


def _schema(hint: Any, where: str) -> dict[str, Any]:
    """The JSON schema of a type hint."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is None:
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return _values([member.value for member in hint], where)
        try:
            return dict(PLAIN[hint])
        except (KeyError, TypeError):
            pass
    elif origin in (typing.Union, types.UnionType):
        return _union(inner, where)
    elif origin is typing.Literal:
        return _values(list(inner), where)
    elif origin is list:
        return {"type": "array", "items": _schema(inner[0], where)}
    elif origin is dict:
        return {"type": "object", "additionalProperties": _schema(inner[1], where)}
    elif origin is tuple and ... not in inner:
        return {"type": "array", "prefixItems": [_schema(item, where) for item in inner]}
    raise RequestError(
        f"{where} has the type {hint!r}, which has no JSON schema; expected int, float, str, bool, list, dict, tuple, "
        "Literal, an Enum or a union of them; or pass a JSON schema instead of the function"
    )


def _union(kinds: tuple[Any, ...], where: str) -> dict[str, Any]:
    made = [_schema(kind, where) for kind in kinds if kind is not type(None)]
    names = {entry["type"] for entry in made if list(entry) == ["type"]}
    if len(made) == 1:
        union = made[0]
    elif all(list(entry) == ["type"] for entry in made):
        union = {"type": sorted(names) if len(names) > 1 else names.pop()}
    else:
        union = {"anyOf": made}
    return {**union, "nullable": True} if type(None) in kinds else union


def _values(values: list[Any], where: str) -> dict[str, Any]:
    if not values or any(type(value) not in SCALARS for value in values):
        raise RequestError(f"{where} has the choices {values!r}; expected strings, numbers or booleans")
    kinds = list(dict.fromkeys(SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _sections(doc: str) -> tuple[str, dict[str, str]]:
    """The text before the first section, and the sections by name."""
    parts = SECTION.split(doc)
    names = ["Args" if name in ("Arguments", "Parameters") else name for name in parts[1::2]]
    return parts[0].strip(), dict(zip(names, parts[2::2], strict=True))


def _arguments(text: str) -> dict[str, str]:
    """Argument names to descriptions; lines that are indented deeper go on with the one before."""
    found: dict[str, str] = {}
    name, indent = "", None
    for line in text.split("\n"):
        match = ARGUMENT.match(line)
        if match and (indent is None or len(match[1]) <= indent):
            name, indent = match[2], len(match[1])
            found[name] = match[3]
        elif name and line.strip():
            found[name] += " " + line.strip()
    return {name: text.strip() for name, text in found.items()}
