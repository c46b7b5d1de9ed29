"""Whether this project's kernels for GPUs run here: they are compiled by Triton, which may be missing or incomplete."""

import logging
from functools import lru_cache

logger = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def triton_runs() -> bool:
    """Compile and run the smallest kernel there is, once a process; where that fails, the log says what to do."""
    try:
        import torch

        from image_curation.decode.cuda_sharpness import laplacian_sums

        laplacian_sums(torch.zeros((1, 8, 8, 3), dtype=torch.uint8, device="cuda"))
    except Exception as error:  # noqa: BLE001 - each lack has its own error
        logger.warning(
            "Kernels in Triton do not run here: the encoder has two thirds of its speed, and DALI resizes images. "
            "Triton needs a C compiler and Python's headers: %s: %s", type(error).__name__, error
        )  # fmt: skip
        return False
    return True
