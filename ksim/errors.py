"""What a user did wrong, said in one message."""


class KsimError(Exception):
    """A message for the user: the entry points print it without a traceback and exit with 2."""


class ConfigError(KsimError):
    """A mistake in the configuration; the message names the YAML path or flag and what would be right."""
