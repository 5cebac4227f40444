"""Kernels: one file per op family, written over the SIMD vocabulary in `simd/`, compiled once by `build`.

Only `build`'s own process imports Numba: everyone else loads the compiled objects through llvmlite.
"""
