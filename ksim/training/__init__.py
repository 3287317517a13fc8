"""A training: from a config to its objects, the loop, resume and stop."""
