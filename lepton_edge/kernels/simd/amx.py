"""AMX: AVX512-BF16 with registers of 16 rows x 64 bytes, whose products the machine takes as matrices.

Such a register is a number in the instruction, and not a value that LLVM knows: a word loads what it needs, and leaves
its result in memory.  Before the first word a thread says how large they are (`open_grid`).
Intel, Software Developer's Manual 2, "TDPBSSD", "TDPBF16PS", "LDTILECFG"; Optimization Reference Manual, chapter 20.
"""

from llvmlite import ir

from .avx512 import AVX512
from .avx512bf16 import AVX512BF16
from .portable import I8, I64, Value, call

ROWS = 16
SUMS, LEFT, RIGHT = (0, 1, 2, 3), (4, 5), (6, 7)  # registers: 16 x 16 sums, and what is multiplied


def sizes(bytes_left: int) -> bytes:
    """What `ldtilecfg` reads: left operands have 16 rows of so many bytes, right ones a row for four bytes of these."""
    shapes = {**dict.fromkeys(SUMS, (ROWS, 64)), **dict.fromkeys(LEFT, (ROWS, bytes_left))}
    shapes |= dict.fromkeys(RIGHT, (bytes_left // 4, 64))
    columns = b"".join(shapes[i][1].to_bytes(2, "little") for i in range(8))
    rows = bytes(shapes[i][0] for i in range(8))
    return b"\x01" + bytes(15) + columns + bytes(16) + rows + bytes(8)


class AMX(AVX512BF16):
    name = "amx"
    features = f"{AVX512BF16.features},+amx-tile,+amx-int8,+amx-bf16"
    tiles = ((16, 1), *AVX512.tiles)
    fetching, fetch_near = AVX512.fetching, AVX512.fetch_near
    grid = True
    grid_tokens = 64  # for 16, unpacking takes longer than is gained: 0.8 times as fast; for 32 and 48 as long

    def open_grid(self, bytes_left: int) -> None:
        module, name = self.b.module, f"lepton_grid_{bytes_left}"
        if name not in module.globals:
            data = bytearray(sizes(bytes_left))
            variable = ir.GlobalVariable(module, ir.ArrayType(I8, len(data)), name)
            variable.initializer, variable.global_constant = ir.Constant(variable.value_type, data), True
            variable.linkage = "linkonce_odr"
        call(self.b, "llvm.x86.ldtilecfg", ir.VoidType(), self.b.bitcast(module.globals[name], I8.as_pointer()))

    def close_grid(self) -> None:
        call(self.b, "llvm.x86.tilerelease", ir.VoidType())

    def grid_codes(self, x: Value, x_step: int, w: Value, w_step: int, i: Value, count: Value, to: Value) -> None:
        """Sums of groups i - 2 to i + 1, as far as they are among 0 to count - 1; called for every fourth i in turn.

        x, w: of group i, 16 tokens by 32 signed bytes and 16 rows as q8 has them; the next ones lie a step further.
        To `to` and what lies before go int32 [16 tokens][16 rows] of each.  A store takes as long as a product, and is
        done beside that of two groups later: 1.6 times as fast as by turns.
        """
        for n in range(4):
            group = self.offset(i, n)
            with self.b.if_then(self.b.icmp_signed("<", group, count)):
                left, right = LEFT[n % 2], RIGHT[n % 2]
                self._tiles("tilezero", SUMS[n])
                self._move("tileloadd64", left, self.offset(x, n * x_step), 32)
                self._move("tileloadd64", right, self.offset(w, n * w_step), 64)
                self._tiles("tdpbssd", SUMS[n], left, right)
            before = self.offset(i, n - 2)
            with self.b.if_then(self.b.icmp_unsigned("<", before, count)):
                self._move("tilestored64", SUMS[n - 2], self.offset(to, (n - 2) * 1024), 64)

    def grid_pairs(self, x: Value, w: Value, tokens: int, rows: int, apart: Value, steps: Value, sums: Value,
                   ld: Value) -> None:  # fmt: skip
        """f32 sums [16 tokens][16 rows], ld bytes a token, plus `steps` times 32 columns of bf16; `tokens` by `rows` of
        such, 1 or 2 each.

        x: [steps][16 tokens][32]; w: [steps][16 pairs of columns][16 rows][2]; the second tokens or rows lie `apart`.
        """
        blocks = [(t, r, self.b.add(self.offset(sums, 64 * r), self.b.mul(ld, ld.type(16 * t))))
                  for t in range(tokens) for r in range(rows)]  # fmt: skip
        for t, r, at in blocks:
            self._move("tileloadd64", SUMS[2 * t + r], at, ld)

        def step(i: Value) -> None:
            here = self.b.mul(i, i.type(1024))
            for side, count, address in ((LEFT, tokens, x), (RIGHT, rows, w)):
                for n in range(count):
                    at = self.b.add(address, here)
                    self._move("tileloadd64", side[n], self.b.add(at, apart) if n else at, 64)
            for t, r, _ in blocks:
                self._tiles("tdpbf16ps", SUMS[2 * t + r], LEFT[t], RIGHT[r])

        self.repeat(steps, step)
        for t, r, at in blocks:
            self._move("tilestored64", SUMS[2 * t + r], at, ld)

    def grid_rows(self, w: Value, ldw: Value, lots: int, ahead: Value, x: Value, steps: Value, sums: Value) -> None:
        """f32 sums [lots][16 rows][16 tokens] plus `steps` times 32 columns of bf16, the rows where they lie.

        x: [steps][16 pairs of columns][16 tokens][2].  ahead: as many rows, which are fetched meanwhile as they lie,
        for the hardware does not foresee 32 streams.  The order of the sums is that of `grid_pairs`.
        """
        for n in range(lots):
            self._move("tileloadd64", SUMS[n], self.offset(sums, 1024 * n), 64)

        def step(i: Value) -> None:
            self._move("tileloadd64", RIGHT[0], self.b.add(x, self.b.mul(i, i.type(1024))), 64)
            at = self.b.add(w, self.b.mul(i, i.type(64)))
            fetched = self.b.add(ahead, self.b.mul(i, i.type(1024 * lots)))
            for line in range(0, 1024 * lots, 64):
                self.prefetch(fetched, line, 2)
            for n in range(lots):
                self._move("tileloadd64", LEFT[n], self.b.add(at, self.b.mul(ldw, i.type(16 * n))), ldw)
            for n in range(lots):
                self._tiles("tdpbf16ps", SUMS[n], LEFT[n], RIGHT[0])

        self.repeat(steps, step)
        for n in range(lots):
            self._move("tilestored64", SUMS[n], self.offset(sums, 1024 * n), 64)

    def _tiles(self, name: str, *registers: int) -> None:
        call(self.b, f"llvm.x86.{name}", ir.VoidType(), *(ir.Constant(I8, r) for r in registers))

    def _move(self, name: str, register: int, address: Value, stride: int | Value) -> None:
        stride = ir.Constant(I64, stride) if isinstance(stride, int) else stride
        call(self.b, f"llvm.x86.{name}", ir.VoidType(), ir.Constant(I8, register), self.pointer(address, 0, I8), stride)
