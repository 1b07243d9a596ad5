"""Measuring which backend and which plan is fastest for a call on this device: what ``glide-fast tune`` does.

- ``tasks.py``: the calls to measure, out of the ops' cases or as a model makes them, and in which order;
- ``recipe.py``: a call in JSON, so that another process can make one like it;
- ``build.py``: compiles the candidates of some calls, in several processes, before anything is timed;
- ``measure.py``: the candidates of one call, compared with fp64 and timed in turns;
- ``run.py``: all of that within a time, writing each row when it is there.

Nothing here is imported by anything but the command and the GPU suite.
"""
