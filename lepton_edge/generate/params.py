"""What a caller may ask of a request, checked; and a model's own defaults from generation_config.json."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lepton_edge.errors import ConfigError, RequestError

MAX_TOKENS = 256
INT32_MAX = 2**31 - 1

# Where generation_config.json says what we call otherwise.
CONFIG_FIELDS = {
    "max_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_penalty": "repetition_penalty",
}


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen and when to stop. The defaults are those of transformers, but for `max_tokens`.

    Attributes:
        max_tokens: at most so many new tokens, 1 or more.
        temperature: 0 takes the likeliest token; else logits are divided by it.
        top_k: choose among so many likeliest tokens; 0: no limit.
        top_p: choose among the fewest tokens that together have this probability, above 0 to 1 (Holtzman et al. 2020).
        min_p: leave out tokens less likely than this share of the likeliest one, 0 to 1 (Nguyen et al. 2024).
        repeat_penalty: logits of tokens that the prompt or the text has are divided by it where they are positive and
            multiplied where they are negative (Keskar et al. 2019); above 0, 1 changes nothing.
        seed: 0 or more; the same seed gives the same text. None: a new one each time.
        stop: strings that end the text; they are left out of it. One string or several.
    Raises:
        RequestError: a value of the wrong type or out of range.
    """

    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        checked = {
            "max_tokens": whole("max_tokens", self.max_tokens, 1),
            "temperature": real("temperature", self.temperature, 0.0, math.inf),
            "top_k": whole("top_k", self.top_k, 0),
            "top_p": real("top_p", self.top_p, 0.0, 1.0, above=True),
            "min_p": real("min_p", self.min_p, 0.0, 1.0),
            "repeat_penalty": real("repeat_penalty", self.repeat_penalty, 0.0, math.inf, above=True),
            "seed": None if self.seed is None else whole("seed", self.seed, 0, most=None),
            "stop": _strings("stop", self.stop),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def given(self, **values: Any) -> SamplingParams:
        """A copy with the values that are not None. Raises RequestError."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    @classmethod
    def from_generation_config(cls, config: Mapping[str, Any], where: str) -> SamplingParams:
        """A model's defaults: greedy unless `do_sample` is true.

        Args:
            config: the parsed generation_config.json; {} where there is none.
            where: the file's path, for messages.
        Raises:
            ConfigError: a value of the wrong type or out of range.
        """
        sample = config.get("do_sample")
        if sample is not None and not isinstance(sample, bool):
            raise ConfigError(f"{where}: do_sample is {reprlib.repr(sample)}; expected true or false; correct the file")
        values = {name: config[key] for name, key in CONFIG_FIELDS.items() if config.get(key) is not None}
        for name, value in values.items():
            try:
                cls(**{name: value})
            except RequestError as error:
                raise ConfigError(f"{where}: {CONFIG_FIELDS[name]} is wrong: {error}; correct the file") from None
        temperature = values.get("temperature", 1.0) if sample else 0.0
        return cls(**{**values, "temperature": temperature})


def whole(name: str, value: Any, least: int, most: int | None = INT32_MAX) -> int:
    """A whole number from `least` to `most` (None: without end) as an int; RequestError naming it if it is not one."""
    good = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not good or value < least or (most is not None and value > most):
        end = "or more" if most is None else f"to {most}"
        raise RequestError(f"{name} is {reprlib.repr(value)}; expected a whole number, {least} {end}")
    return int(value)


def real(name: str, value: Any, low: float, high: float, above: bool = False) -> float:
    """A number from `low`, or above it, to `high` as a float; RequestError naming it if it is not one."""
    good = isinstance(value, numbers.Real) and not isinstance(value, bool)
    try:
        number = float(value) if good else math.nan
    except OverflowError:
        number = math.inf
    if not (low < number if above else low <= number) or number > high or math.isinf(number):
        start = f"above {low:g}" if above else f"{low:g} or more"
        end = "" if math.isinf(high) else f", at most {high:g}"
        raise RequestError(f"{name} is {reprlib.repr(value)}; expected a number {start}{end}")
    return number


def _strings(name: str, value: Any) -> tuple[str, ...]:
    strings = (value,) if isinstance(value, str) else value
    if not isinstance(strings, list | tuple) or not all(isinstance(item, str) and item for item in strings):
        raise RequestError(f"{name} is {reprlib.repr(value)}; expected a string or a list of them, none empty")
    return tuple(strings)
