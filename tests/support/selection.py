"""Which tests a command runs."""

import re

# Trainings of minutes, a cluster, other libraries, windows and browsers: only where -m names them.
ON_REQUEST = {"training", "slurm", "peers", "screen"}


def pytest_collection_modifyitems(config, items):
    left_out = ON_REQUEST.difference(re.findall(r"\w+", config.option.markexpr))
    selected, deselected = [], []
    for item in items:
        (selected if left_out.isdisjoint(mark.name for mark in item.iter_markers()) else deselected).append(item)
    config.hook.pytest_deselected(items=deselected)
    items[:] = selected
