"""The images of a batch, each of its own size -> squares, on the CPU: by torch, whose resize is the quicker one there.

DALI's resize is most of what a training image costs a CPU. Torch's has the same linear filter with antialiasing, works
on 8-bit numbers with the CPU's vector units, and takes a third of the time; it differs by at most a few grey levels.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali.pipeline import do_not_convert
from torch.nn.functional import interpolate

Pixels = npt.NDArray[np.uint8]


@do_not_convert  # else DALI rewrites it as if it were a part of the graph that it is called in
def resizer(size: int, threads: int) -> Callable[[Sequence[Pixels]], list[Pixels]]:
    """What makes b images, uint8 [h, w, 3] of any h and w, into b of uint8 [size, size, 3], in so many threads."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="squares")

    def resized(images: Sequence[Pixels]) -> list[Pixels]:
        made = np.empty((len(images), size, size, 3), np.uint8)
        list(pool.map(lambda first: _resize(images[first::threads], made[first::threads]), range(threads)))
        return list(made)

    return resized


def _resize(images: Sequence[Pixels], made: Pixels) -> None:
    """Nothing in here is large enough for torch to start threads of its own, which would be in the model's way."""
    for image, square in zip(images, made, strict=True):
        pixels = torch.from_numpy(image).permute(2, 0, 1)[None]
        resized = interpolate(pixels, size=square.shape[:2], mode="bilinear", antialias=True)[0]
        square[:] = resized.permute(1, 2, 0).numpy()
