"""Compiles kernels for another architecture: python arm_program.py ISA FOLDER [OP …] (see test_arm.py).

For each op: FOLDER/OP.s, its assembly, and FOLDER/OP.o, its object code.
"""

import sys
from pathlib import Path

from lepton_edge.kernels import build

isa, folder, *ops = sys.argv[1:]
build.prepare(isa, "aarch64")
known = build.factories()
for op in ops or known:
    module, machine = build.link(op, known[op]())
    (Path(folder) / f"{op}.s").write_text(machine.emit_assembly(module))
    (Path(folder) / f"{op}.o").write_bytes(machine.emit_object(module))
