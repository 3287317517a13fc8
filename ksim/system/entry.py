"""What all entry points do around their work; it imports nothing that is slow."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ksim.errors import KsimError
from ksim.system import trust

EXIT_USER_ERROR = 2


def entry(function: Callable[[Sequence[str]], None]) -> None:
    """Runs an entry point that is no Hydra application on `sys.argv`; a user's mistake is one message, exit code 2."""
    look_in_working_directory()
    try:
        function(trust.take_option(sys.argv[1:]))
    except KsimError as error:
        sys.exit(report(error))
    except KeyboardInterrupt:
        sys.exit(130)


def look_in_working_directory() -> None:
    """Lets a user's own terms be found where the command is given; a console script does not look there by itself."""
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))


def report(error: KsimError) -> int:
    """Tells a user's mistake on stderr; returns the exit code."""
    print(f"error: {error}", file=sys.stderr)
    return EXIT_USER_ERROR
