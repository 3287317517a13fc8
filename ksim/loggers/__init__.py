"""Where metrics and videos go besides the run directory."""
