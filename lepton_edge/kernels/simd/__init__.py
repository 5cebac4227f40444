"""The SIMD vocabulary: `portable` and one file per instruction set spell it in LLVM IR, `words` gives it to Numba."""
