"""Measurements of glide_fast; README.md beside this file says how to run them and how to read their results."""

from glide_fast.openmp import let_threads_sleep

# The same setting as in ``glide-fast bench``, so that times can be compared. It is here because it must come before torch is
# imported, and every module below imports torch.
let_threads_sleep()
