"""Measurements of glide_fast; how to run them and how to read what they say is in README.md beside this file."""

from glide_fast.openmp import let_threads_sleep

# As in ``glide-fast bench``, so that their times can be compared. Here, because every module below imports torch.
let_threads_sleep()
