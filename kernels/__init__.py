"""Triton kernels, one op a file.

The folder sits beside `glide_fast` in the repository and is installed as `glide_fast.kernels`, so a distribution that
owns a top-level `kernels` is never touched. A kernel here is reached only through its op in `glide_fast.ops`, which
holds the contract and the reference; importing this package imports neither Triton nor a driver.
"""
