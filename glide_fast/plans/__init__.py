"""Choices that were measured on a device: which backend of an op, and which of its plans, runs a call fastest.

Data, not code: a ``<device>.json`` beside this file, or in the user's cache, is written by ``glide-fast tune`` on that device.

- ``device.py``: which device a file is of;
- ``file.py``: what a file holds, and that nothing else is taken for one;
- ``signature.py``: a call in a line of text, which says all that decides its speed;
- ``sources.py``: which source a backend's kernel was compiled from: a measurement is of that source only;
- ``table.py``: the files that hold for a device, and which of their rows may be used.

:mod:`glide_fast.ops.backends` asks for a row when it makes a choice. Nothing is measured here, and nothing at first use.
"""
