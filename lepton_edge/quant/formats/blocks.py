"""The geometry that the packed formats share: 16 rows interleaved, groups of 32 columns that share a scale.

A matrix [N, K] is padded with zero weights to ceil(N/16) row blocks and ceil(K/32) groups. A row block is one record:

    group 0, 1, …   16 scales, float16, one a row; then the codes of 16 rows x 32 columns, as 32-bit lanes: lane (c, r)
                    at c*16 + r, r = row of the block
    zeros           up to a multiple of 64 bytes

So a product reads a block in one piece: with all scales behind all codes, reads from memory took 1.4 times as long.
A format says how many lanes a row's 32 columns take, and what the bytes of a lane mean. A weight is code * scale. A
format may have other scales of 16 bits.
"""

from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from lepton_edge.quant.formats.base import Format

__all__ = ["GROUP", "ROWS", "BlockFormat", "join_bytes", "split_bytes"]

ROWS = 16
GROUP = 32
RECORD_ALIGNMENT = 64
CHUNK = 1 << 16  # weights worked on at a time: three float32 arrays of that size stay in a level-2 cache


class BlockFormat(Format):
    """A format in row blocks; a subclass says how a group of 32 weights becomes `lanes` uint32 and a scale."""

    packed, dtype, block_rows = True, "U8", ROWS
    lanes: int

    def nbytes(self, rows: int, columns: int) -> int:
        return -(-rows // ROWS) * self.record_bytes(columns)

    def record_bytes(self, columns: int) -> int:
        """Bytes of one row block of a matrix with that many columns."""
        return -(-(-(-columns // GROUP) * self.group_bytes) // RECORD_ALIGNMENT) * RECORD_ALIGNMENT

    @property
    def group_bytes(self) -> int:
        """Bytes of a group of a row block."""
        return ROWS * (2 + 4 * self.lanes)

    @abstractmethod
    def encode(self, w: NDArray[np.float32]) -> tuple[NDArray[np.uint32], NDArray[np.floating]]:
        """float32 [32, n], a group a column -> lanes uint32 [lanes, n] and scales [n] for `narrow`.

        A scale that is infinite or NaN says that the group cannot be packed.
        """

    @abstractmethod
    def decode(self, lanes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """uint32 [lanes, n] -> codes as float32 [32, n], before scaling."""

    def narrow(self, scales: NDArray[np.floating]) -> NDArray[np.uint16]:
        """Scales as they are stored."""
        return scales.view(np.uint16)

    def widen(self, scales: NDArray[np.uint16]) -> NDArray[np.float32]:
        """The inverse of `narrow`."""
        return scales.view(np.float16).astype(np.float32)

    def views(self, data: NDArray[np.uint8], rows: int, columns: int) -> tuple[NDArray[np.uint32], NDArray[np.uint16]]:
        """Views of packed bytes: lanes uint32 [blocks, groups, lanes, 16] and scales uint16 [blocks, groups, 16]."""
        blocks, groups = -(-rows // ROWS), -(-columns // GROUP)
        records = data.reshape(blocks, self.record_bytes(columns))
        parts = records[:, : groups * self.group_bytes].reshape(blocks, groups, self.group_bytes)
        scales, lanes = parts[:, :, : 2 * ROWS].view(np.uint16), parts[:, :, 2 * ROWS :].view(np.uint32)
        return lanes.reshape(blocks, groups, self.lanes, ROWS), scales

    def _chunk_blocks(self, columns: int) -> int:
        return max(1, CHUNK // (ROWS * max(columns, GROUP)))

    def _pack(self, w: NDArray[np.float32]) -> NDArray[np.uint8]:
        rows, columns = w.shape
        data = np.zeros(self.nbytes(rows, columns), np.uint8)
        if not data.size:
            return data
        lanes, scales = self.views(data, rows, columns)
        groups, step = lanes.shape[1], self._chunk_blocks(columns)
        for start in range(0, len(lanes), step):
            part = _padded(w[start * ROWS : (start + step) * ROWS])
            # [block, row, group, column] -> [column, block, group, row]: sums over a group then add long vectors.
            columns_first = part.reshape(-1, ROWS, groups, GROUP).transpose(3, 0, 2, 1).reshape(GROUP, -1)
            codes, scale = self.encode(columns_first)
            if not np.isfinite(scale).all():
                raise self._refuse()
            lanes[start : start + step] = codes.reshape(self.lanes, -1, groups, ROWS).transpose(1, 2, 0, 3)
            scales[start : start + step] = self.narrow(scale).reshape(-1, groups, ROWS)
        return data

    def _unpack(self, data: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.float32]:
        out = np.empty((rows, columns), np.float32)
        if not out.size:
            return out
        lanes, scales = self.views(data, rows, columns)
        groups, step = lanes.shape[1], self._chunk_blocks(columns)
        for start in range(0, len(lanes), step):
            part = lanes[start : start + step]
            weights = self.decode(part.transpose(2, 0, 1, 3).reshape(self.lanes, -1))
            weights *= self.widen(scales[start : start + step]).reshape(-1)
            rows_first = weights.reshape(GROUP, len(part), groups, ROWS).transpose(1, 3, 2, 0)
            target = out[start * ROWS : (start + step) * ROWS]
            target[:] = rows_first.reshape(len(part) * ROWS, groups * GROUP)[: len(target), :columns]
        return out


def join_bytes(parts: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """uint8 [lanes, 4, n] -> uint32 [lanes, n], part j as byte j from the least significant."""
    return np.stack([parts[:, j] for j in range(4)], axis=-1).view(np.uint32)[:, :, 0]


def split_bytes(lanes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """The inverse of join_bytes."""
    return np.ascontiguousarray(lanes).view(np.uint8).reshape(*lanes.shape, 4).transpose(0, 2, 1)


def _padded(w: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, K] with zeros added so that n is a multiple of 16 and K of 32; `w` itself when they are already."""
    rows, columns = -w.shape[0] % ROWS, -w.shape[1] % GROUP
    return np.pad(w, ((0, rows), (0, columns))) if rows or columns else w
