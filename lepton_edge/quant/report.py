"""What quantizing did to each tensor, and to all of them together."""

import math
from dataclasses import dataclass

__all__ = ["Report", "Row"]

NAME_WIDTH = 47  # leaves a table line 80 characters


@dataclass(frozen=True)
class Row:
    """One tensor as written. format: of its weights, or the safetensors dtype of a tensor that was copied.

    squared_error: sum of (w - written w)^2; squared_norm: sum of w^2; both 0 for a tensor that was copied.
    """

    tensor: str
    format: str
    shape: tuple[int, ...]
    nbytes: int
    squared_error: float = 0.0
    squared_norm: float = 0.0

    @property
    def weights(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape)

    @property
    def bits(self) -> float:
        """Bits a weight, padding and scales included."""
        return 8 * self.nbytes / self.weights if self.weights else 0.0

    @property
    def error(self) -> float:
        """|w - written w| / |w|."""
        return math.sqrt(self.squared_error / self.squared_norm) if self.squared_norm else 0.0


@dataclass(frozen=True)
class Report:
    """rows: in the order of the written file. source_nbytes: of all tensors before. seconds: the whole run."""

    rows: tuple[Row, ...]
    source_nbytes: int
    seconds: float

    @property
    def total(self) -> Row:
        """All tensors as if they were one; its error is that of the converted ones."""
        return Row(
            tensor=f"{len(self.rows)} tensors",
            format="",
            shape=(sum(row.weights for row in self.rows),),
            nbytes=sum(row.nbytes for row in self.rows),
            squared_error=sum(row.squared_error for row in self.rows),
            squared_norm=sum(row.squared_norm for row in self.rows),
        )

    def table(self) -> str:
        """One line a tensor and the totals, at most 80 characters wide; long names lose their middle."""
        total = self.total
        lines = [
            _line("tensor", "format", "bits/weight", "rel. error"),
            "-" * 80,
            *(_line(row.tensor, row.format, f"{row.bits:.2f}", f"{row.error:.5f}") for row in self.rows),
            "-" * 80,
            _line(total.tensor, "", f"{total.bits:.2f}", f"{total.error:.5f}"),
            f"{total.weights / 1e6:.1f} M weights: {self.source_nbytes / 1e6:.1f} MB -> {total.nbytes / 1e6:.1f} MB "
            f"in {self.seconds:.1f} s",
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def _line(name: str, format: str, bits: str, error: str) -> str:
    if len(name) > NAME_WIDTH:
        head = NAME_WIDTH // 2 - 1
        name = name[:head] + ".." + name[len(name) - (NAME_WIDTH - 2 - head) :]
    return f"{name:<{NAME_WIDTH}}  {format:<6}  {bits:>11}  {error:>10}"
