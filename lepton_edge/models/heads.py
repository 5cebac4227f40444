"""How encoder families write their heads: a `Form` for each kind makes all architectures of a family."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

from .decoder import read_activation
from .encoder import with_head
from .fields import Fields
from .spec import ModelSpec

__all__ = ["Form", "architectures"]

KINDS = {
    "classes": "ForSequenceClassification", "tokens": "ForTokenClassification", "span": "ForQuestionAnswering",
    "mask": "ForMaskedLM",
}  # fmt: skip
Reader = Callable[[Fields], ModelSpec]


@dataclass(frozen=True)
class Form:
    """How a family writes a head: the modules of its output and of the dense layer and the norm before, if any.

    activation: of the dense layer; `field` is the field of the config that may name another one.  pool: as of `Head`.
    dense_bias, bias: fields that say whether the dense layer and the output have biases; "" where they do.
    """

    head: str
    dense: str = ""
    norm: str = ""
    activation: str = "gelu"
    field: str = ""
    pool: str = "each"
    dense_bias: str = ""
    bias: str = ""


def architectures(name: str, read: Reader, **forms: Form) -> dict[str, Reader]:
    """The architectures `NAMEModel` and `NAMEFor…` of a family with their readers.

    read: of a bare model.  forms: of the heads that the family has, by the kinds of `Head`.
    """
    return {f"{name}Model": read, **{name + KINDS[kind]: _reader(read, kind, form) for kind, form in forms.items()}}


def _reader(read: Reader, kind: str, form: Form) -> Reader:
    """A reader of the family's module, as which the table of families knows it."""

    @wraps(read, assigned=("__module__",))
    def read_head(fields: Fields) -> ModelSpec:
        return _with_form(read(fields), fields, kind, form)

    return read_head


def _with_form(spec: ModelSpec, fields: Fields, kind: str, form: Form) -> ModelSpec:
    """The spec of a model with a head."""
    parts = {"head": form.head, "head_dense": form.dense, "head_norm": form.norm}
    modules = {**spec.names.modules, **{part: module for part, module in parts.items() if module}}
    options: dict[str, Any] = {}
    if form.dense:
        given = bool(form.field) and fields.has(form.field)
        options = dict(dense=read_activation(fields, "", form.field) if given else form.activation,
                       dense_norm=bool(form.norm))  # fmt: skip
    for option, field in (("dense_bias", form.dense_bias), ("bias", form.bias)):
        if field:
            options[option] = fields.flag(field, default=option == "bias")
    if kind == "mask":
        options["dense_width"] = spec.embed_width
    spec = replace(spec, names=replace(spec.names, modules=modules))
    return with_head(spec, fields, kind, pool=form.pool, **options)
