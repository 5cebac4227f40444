"""Logits that stay on the device until somebody reads them: most samplers read only the likeliest."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Logits"]

Floats = NDArray[np.float32]


class _Row:
    """The logits of one token: an array, once it is used as one."""

    def __init__(self, logits: "Logits", m: int) -> None:
        self._logits, self._m = logits, m

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.array(self._logits.whole[self._m], dtype, copy=copy)

    def __getitem__(self, key: Any) -> Any:
        return self._logits.whole[self._m][key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logits.whole[self._m], name)

    def __ge__(self, other: Any) -> Any:
        return self._logits.whole[self._m] >= other

    def __eq__(self, other: object) -> Any:
        return self._logits.whole[self._m] == other

    __hash__ = None  # type: ignore[assignment]


class Logits:
    """Float32 [M, V], fetched as a whole where something but one of the likeliest is asked for."""

    def __init__(self, fetch: Callable[[], Floats], shape: tuple[int, int], ids: NDArray[np.int32], values: Floats) -> None:
        """ids, values: [M, K], the likeliest tokens and their logits, which are here."""
        self._fetch, self.shape, self._ids, self._values = fetch, shape, ids, values
        self._held: Floats | None = None

    @property
    def whole(self) -> Floats:
        """All of them; must be asked for before the next step for the first time."""
        if self._held is None:
            self._held = self._fetch()
        return self._held

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.array(self.whole, dtype, copy=copy)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> Any:
        if self._held is None and isinstance(key, tuple) and len(key) == 2:
            m, token = key
            (places,) = np.nonzero(self._ids[m] == token)
            if places.size and np.isfinite(self._values[m, places[0]]):
                return self._values[m, places[0]]
        if self._held is None and isinstance(key, int | np.integer):
            return _Row(self, int(key))
        return self.whole[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)
