"""What torch on a CPU gains by: the processor's tiles for bf16, and an allocator that keeps what was freed."""

import ctypes

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def has_amx() -> bool:
    """Whether the processor multiplies bf16 in tiles (Intel's AMX): several times as fast as fp32. It loads torch."""
    import torch

    return bool(getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)())


def keep_freed_memory() -> bool:
    """Let this process keep freed memory, up to 1 GiB a block, and all of its threads started later share it.

    By itself glibc gives large blocks back to the system, which clears each page of them anew for the next one: of a
    vision transformer's pass on a CPU that was a sixth of the time. The process then holds what it needed at its peak.

    Returns:
        Whether that worked; other C libraries than glibc have no such choice.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    choices = {_M_MMAP_THRESHOLD: _KEPT_BYTES, _M_TRIM_THRESHOLD: 2**31 - 1, _M_ARENA_MAX: 1}
    return all(mallopt(name, value) == 1 for name, value in choices.items())
