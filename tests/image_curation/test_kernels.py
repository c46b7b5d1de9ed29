"""Where Triton does not run, what stands in for its kernels is used, and the log says so."""

import pytest
import torch

from image_curation.encoders.forward import is_fusable
from image_curation.kernels import triton_runs


@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton runs here")
def test_without_triton_models_run_as_they_are_and_the_log_says_why_once(caplog):
    triton_runs.cache_clear()
    assert not is_fusable(torch.nn.Identity(), torch.device("cuda"))
    assert not triton_runs()
    assert caplog.text.count("Triton needs a C compiler and Python's headers") == 1
    assert "DALI resizes images" in caplog.text
