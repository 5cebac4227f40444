"""What stays on the device until somebody reads it: most samplers read only the likeliest tokens."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Lazy", "Logits"]

Floats = NDArray[np.float32]


class Lazy:
    """A float32 array [M, N] that is fetched when it is used as one; its rows are such, too.

    It must be used before the next step for the first time.
    """

    def __init__(self, fetch: Callable[[], Floats]) -> None:
        self._fetch = fetch
        self._held: Floats | None = None

    @property
    def whole(self) -> Floats:
        """The array itself."""
        if self._held is None:
            self._held = self._fetch()
        return self._held

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return np.array(self.whole, dtype)

    def __getitem__(self, key: Any) -> Any:
        if self._held is None and isinstance(key, int | np.integer):
            return Lazy(lambda: self.whole[key])
        return self.whole[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.whole, name)

    def __len__(self) -> int:
        return len(self.whole)

    def __ge__(self, other: Any) -> Any:
        return self.whole >= other

    def __eq__(self, other: object) -> Any:
        return self.whole == other

    __hash__ = None  # type: ignore[assignment]


class Logits(Lazy):
    """Logits [M, V], of which one at a time of the likeliest is known without."""

    def __init__(self, fetch: Callable[[], Floats], ids: NDArray[np.int32], values: Floats) -> None:
        """ids, values: [M, K], the likeliest tokens and their logits."""
        super().__init__(fetch)
        self._ids, self._values = ids, values

    def __getitem__(self, key: Any) -> Any:
        if self._held is None and isinstance(key, tuple) and len(key) == 2:
            m, token = key
            if isinstance(m, int | np.integer) and isinstance(token, int | np.integer):
                (places,) = np.nonzero(self._ids[m] == token)
                if places.size and np.isfinite(self._values[m, places[0]]):
                    return self._values[m, places[0]]
        return super().__getitem__(key)
