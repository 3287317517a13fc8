"""How much memory this process and its devices have used at most."""

import contextlib
import resource
import sys
from pathlib import Path

import jax

_HOST = "process"  # beside the devices
_FORGET = "5"  # proc(5), clear_refs: resets the peak resident set size


def forget_peak() -> None:
    """Count the process's peak from here on, where the system can (Linux); a device's goes on."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text(_FORGET)


def peak() -> dict[str, int]:
    """Bytes: `process`, resident memory, shared libraries included; and of each device that counts its own."""
    found = {_HOST: _resident_peak()}
    for device in jax.local_devices():
        if stats := device.memory_stats():
            found[str(device)] = stats["peak_bytes_in_use"]
    return found


def _resident_peak() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
