"""Typed access to the fields of a config.json: every value is checked before anything is computed from it."""

import math
import reprlib
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import ConfigError, UnsupportedModelError

__all__ = ["Fields"]

MOST = 200  # characters of a value in a message
ADVICE = "compare the file with the original model's"


class Fields:
    """The fields of one JSON object. A field that is null counts as absent, as it does in transformers.

    A reader with a `default` returns it for an absent field; without one, an absent field is a ConfigError.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        """`where` is the file's path and `prefix` the way to this object inside it (`rope_scaling.`)."""
        self._values = values
        self._where = where
        self._prefix = prefix
        self._names: dict[str, str] = {}

    def renamed(self, **names: str) -> "Fields":
        """The same fields, where some are found under a name of the family's own: `renamed(hidden_size="n_embd")`.

        The usual name still counts where only that one is there.
        """
        other = Fields(self._values, self._where, self._prefix)
        chosen = {usual: own for usual, own in names.items() if own in self._values or usual not in self._values}
        other._names = {**self._names, **chosen}
        return other

    def assuming(self, **values: Any) -> "Fields":
        """The same fields, of which some have these values, whatever the file says."""
        names = {self._name(name): value for name, value in values.items()}
        other = Fields({**self._values, **names}, self._where, self._prefix)
        other._names = self._names
        return other

    def with_default(self, **values: Any) -> "Fields":
        """The same fields, of which some have these values where they are absent."""
        return self.assuming(**{name: value for name, value in values.items() if not self.has(name)})

    def without(self, name: str) -> "Fields":
        """The same fields without one."""
        return self.assuming(**{name: None})

    def is_text(self, name: str) -> bool:
        """Whether the field is a string."""
        return isinstance(self._values.get(self._name(name)), str)

    def has(self, name: str) -> bool:
        """Whether the field is present and not null."""
        return self._values.get(self._name(name)) is not None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """A whole number in low..high (both included)."""
        value = self._present(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(name, f"a whole number from {low} to {high}")
        return value

    def integer_or_null(self, name: str, low: int, high: int, default: int) -> int | None:
        """A whole number in low..high, or None where null is written; only an absent field gives the default."""
        own = self._name(name)
        if own in self._values and self._values[own] is None:
            return None
        return self.integer(name, low, high, default)

    def integer_or_none(self, name: str, low: int, high: int) -> int | None:
        """A whole number in low..high, or None where null is written or nothing."""
        return self.integer(name, low, high) if self.has(name) else None

    def number_or_null(self, name: str, low: float, high: float, default: float | None) -> float | None:
        """A number in low..high, or None where null is written; only an absent field gives the default."""
        own = self._name(name)
        if (own in self._values and self._values[own] is None) or (default is None and not self.has(name)):
            return None
        return self.number(name, low, high, default)

    def integer_or(self, name: str, word: str, low: int, high: int, default: int) -> int:
        """A whole number in low..high; the default where the field is absent or says `word`."""
        return default if self._values.get(self._name(name)) == word else self.integer(name, low, high, default)

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number in low..high (both included); whole numbers count."""
        value = self._present(name, default)
        # The comparison comes before float(), which a huge whole number would overflow; NaN fails it as well.
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise self.error(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._present(name, default)
        if not isinstance(value, bool):
            raise self.error(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._present(name, default)
        if not isinstance(value, str):
            raise self.error(name, "a string")
        return value

    def texts(self, name: str, length: int | None = None) -> list[str]:
        """A list of strings, not empty; of `length` entries where that is given."""
        value = self._present(name, None)
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise self.error(name, "a list of strings, not empty")
        if length is not None and len(value) != length:
            raise self.error(name, f"{length} entries, not {len(value)}")
        return value

    def numbers(
        self, name: str, length: int, low: float, high: float, default: tuple[float, ...] | None = None
    ) -> tuple[float, ...]:  # fmt: skip
        """A list of `length` numbers in low..high; infinity may be {"__float__": "Infinity"}, as in transformers."""
        values = self._present(name, None if default is None else list(default))
        if not isinstance(values, list) or len(values) != length:
            raise self.error(name, f"a list of {length} numbers")
        values = [math.inf if value == {"__float__": "Infinity"} else value for value in values]
        for value in values:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise self.error(name, f"numbers from {low:g} to {high:g}")
        return tuple(map(float, values))

    def flags(self, name: str, length: int) -> list[bool]:
        """A list of `length` values, each true or false, or 1 or 0."""
        values = self._present(name, None)
        if not isinstance(values, list) or len(values) != length or not all(value in (0, 1) for value in values):
            raise self.error(name, f"a list of {length} ones and zeros")
        return [bool(value) for value in values]

    def numbered(self, name: str, most: int) -> tuple[str, ...]:
        """An object {"0": text, "1": text, ...} of at most so many entries, without a gap, as a tuple."""
        held = self.child(name)._values
        found = tuple(held.get(str(i)) for i in range(min(len(held), most)))
        if len(held) > most or not found or not all(isinstance(text, str) for text in found):
            raise self.error(name, f'an object {{"0": "…", "1": "…"}} of at most {most} strings, without a gap')
        return found  # type: ignore[return-value]  # all are strings

    def items(self, name: str, default: list[Any]) -> list[Any]:
        """A list of anything."""
        value = self._present(name, default)
        if not isinstance(value, list):
            raise self.error(name, "a list")
        return value

    def child(self, name: str) -> "Fields":
        """The JSON object in the field; an empty one when it is absent."""
        value = self._values.get(self._name(name))
        if value is not None and not isinstance(value, Mapping):
            raise self.error(name, "an object or null")
        return Fields(value or {}, self._where, f"{self._prefix}{name}.")

    def only(self, names: Collection[str]) -> None:
        """UnsupportedModelError for a field that is none of these."""
        for name in self._values:
            if name not in names:
                raise UnsupportedModelError(
                    f"{self._where}: {self._prefix}{_brief(name)} is not supported; supported: {', '.join(names)}; "
                    "use a model without it"
                )

    def is_empty(self) -> bool:
        """Whether the object has no fields at all."""
        return not self._values

    def error(self, name: str, expected: str) -> ConfigError:
        """The error for a field whose value is wrong (to be raised by the caller)."""
        name = self._name(name)
        value = f"is {_brief(self._values[name])}" if name in self._values else "is missing"
        return ConfigError(f"{self._where}: {self._prefix}{name} {value}; expected {expected}; {ADVICE}")

    def unsupported(
        self, name: str, supported: str, advice: str = "use a model without it"
    ) -> UnsupportedModelError:  # fmt: skip
        """The error for a field that asks for what lepton_edge does not have (to be raised by the caller)."""
        name = self._name(name)
        value = _brief(self._values.get(name))
        return UnsupportedModelError(
            f"{self._where}: {self._prefix}{name} {value} is not supported; supported: {supported}; {advice}"
        )

    def refuse_quantized(self) -> None:
        """UnsupportedModelError for weights that another tool has quantized."""
        if self.has("quantization_config"):
            raise self.unsupported("quantization_config", "float32, float16, bfloat16, or packed by lepton",
                                   "take the original model, and pack it with `lepton quantize`")  # fmt: skip

    def _name(self, name: str) -> str:
        return self._names.get(name, name)

    def _present(self, name: str, default: Any) -> Any:
        value = self._values.get(self._name(name))
        if value is None:
            value = default
        if value is None:
            raise self.error(name, "a value")
        return value


def _brief(value: Any) -> str:
    """A value as a message shows it."""
    text = reprlib.repr(value)
    return text if len(text) <= MOST else f"{text[: MOST - 3]}..."
