"""Reading files that anybody may have written: what is wrong with them is an error, never a crash or a full memory."""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

_DEEPEST = 50  # nesting of a YAML file; a frozen config has 7
_STARTS = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_ENDS = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_regular(path: Path, limit: int) -> bytes:
    """The content of a file, a link to one included, but of no device and no pipe. Raises OSError; ValueError
    where it has more than `limit` bytes, before it is read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that nobody writes to would block
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if found.st_size > limit:
            raise ValueError(f"it has {found.st_size} bytes, more than {limit}")
        return file.read(limit + 1)


def parse_json(data: bytes) -> Any:
    """Raises ValueError, also where it is nested beyond all reason."""
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def parse_yaml(text: str | bytes) -> Any:
    """Raises yaml.YAMLError; ValueError for what would crash libyaml (deep nesting) or fill the memory (aliases)."""
    depth = 0
    for token in yaml.scan(text, Loader=_YAML):
        if isinstance(token, yaml.AliasToken):
            raise ValueError("it has aliases")
        depth += isinstance(token, _STARTS) - isinstance(token, _ENDS)
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
    return yaml.load(text, _YAML)
