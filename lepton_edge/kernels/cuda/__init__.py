"""The kernels of the CUDA executor: one file for each op family, as the CPU's, over words that are PTX instructions.

Kernels are `kernel(row, context, extra)`: addresses of a row of the op table and of the step's header (`layout.py`),
and two numbers that the launch gives (`common.count`, `common.more`).  `layout.py` and `library.py` are free of Numba.
"""
