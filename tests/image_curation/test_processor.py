"""A process of its own: what is asked of the allocator cannot be taken back."""

import subprocess
import sys

import pytest

_FAULTS = """
import ctypes, resource, sys, threading
import numpy as np
from image_curation.processor import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def faults():
    for _ in range(2):  # the first time the memory is new in any case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            np.empty(100_000_000, np.uint8)[::4096] = 1
        found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    print(found)

thread = threading.Thread(target=faults)  # an encoder runs on a thread of its own
thread.start()
thread.join()
"""


def _faults(choice):
    done = subprocess.run([sys.executable, "-c", _FAULTS, choice], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's choices")
def test_large_blocks_are_not_cleared_anew_once_freed_memory_is_kept():
    assert _faults("leave") > 200
    assert _faults("keep") < 100
