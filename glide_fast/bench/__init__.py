"""Measurements of a model or pipeline: what ``glide-fast bench`` and ``glide-fast profile`` print.

Nothing of this is imported by anything else in the package. Benchmarks of single ops at GLIDE's sizes are in the repository's
``benchmarks/``, which is not installed; they share the clocks and the files with these.
"""
