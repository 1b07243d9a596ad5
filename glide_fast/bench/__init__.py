"""Measurements of a model or pipeline: what ``glide-fast bench`` and ``glide-fast profile`` print.

Only commands import these modules. Benchmarks of single ops at GLIDE's sizes are in the repository's ``benchmarks/``, which is
not installed; they use the same timing and write the same files.
"""
