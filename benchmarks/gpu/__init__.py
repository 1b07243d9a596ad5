"""The GPU suite: tests and measurements in parts, the most informative first; each result is written as soon as it is there."""
