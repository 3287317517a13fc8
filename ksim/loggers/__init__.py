"""Where metrics and videos go besides the run directory: loggers, chosen in YAML by their `_target_`."""
