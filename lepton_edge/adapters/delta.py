"""What an adapter changes of a model, in plain numbers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..checkpoint.store import Weight
from ..errors import CheckpointError
from ..models.spec import ModelSpec
from ..quant.pack import map_rows

__all__ = ["Adapter", "Delta"]

Floats = NDArray[np.float32]
Part = tuple[str, int | None]  # our name of a tensor, and its layer


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of low rank (LoRA, arXiv:2106.09685): the matrix w [N, K] becomes w + b a.

    a: [r, K].  b: [N, r], with the adapter's scaling in it.  magnitude: [N]; row n of the sum is given this length
    (DoRA, arXiv:2402.09353).  Of an embedding table [V, n], w is the transpose.
    """

    a: Floats
    b: Floats
    magnitude: Floats | None = None

    def rows(self, first: int, count: int) -> "Delta":
        """The change of some rows of w."""
        magnitude = None if self.magnitude is None else self.magnitude[first : first + count]
        return Delta(self.a, self.b[first : first + count], magnitude)

    def factors(self, weight: Weight, turned: bool = False) -> Floats | None:
        """[N]: what rows of w + b a are multiplied with to have their magnitudes; None where they have none.

        weight: w in any format, or, `turned`, its transpose; it is unpacked some rows at a time.
        """
        if self.magnitude is None:
            return None
        axis = 0 if turned else 1
        parts = [np.square(rows, dtype=np.float64).sum(axis=axis) for rows in self.changed_rows(weight, None, turned)]
        lengths = np.sqrt(np.sum(parts, axis=0) if turned else np.concatenate(parts))
        if not lengths.all():
            raise CheckpointError(f"{weight.name}: a row of the weight and its adapter is zero, which has no direction")
        found: Floats = (self.magnitude / lengths).astype(np.float32)
        return found

    def changed_rows(self, weight: Weight, factors: Floats | None, turned: bool = False) -> Iterator[Floats]:
        """The changed matrix as `weight` lies, float32, some rows at a time; `factors`: as that method gives them."""
        left, right = (self.a.T, self.b.T) if turned else (self.b, self.a)
        start = 0
        for values in map_rows(weight, 1, lambda rows: rows, weight.name):
            values += left[start : start + len(values)] @ right
            if factors is not None:
                values *= factors if turned else factors[start : start + len(values), None]
            yield values
            start += len(values)


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that fits a model.

    spec: the model's own; or, where embedding and output head are two tables now, one whose tables are not tied.
    deltas: the changes by part and layer.  tensors: what replaces the model's, by the names of `spec`.
    renamed: the tensors that `spec` names in another way -> the model's name.
    """

    where: Path
    spec: ModelSpec
    deltas: Mapping[Part, Delta]
    tensors: Mapping[str, Weight]
    renamed: Mapping[str, str] = field(default_factory=dict)

    def weight(self, name: str, base: Callable[[str], Weight]) -> Weight:
        """A tensor of `spec` by its name; `base` gives the model's."""
        found = self.tensors.get(name)
        return base(self.renamed.get(name, name)) if found is None else found
