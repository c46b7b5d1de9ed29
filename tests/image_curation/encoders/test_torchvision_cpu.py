"""torchvision, open_clip and timm import beside any torch, and operators that are not there still say so."""

import pytest
import torch

from image_curation.encoders.torchvision_cpu import ensure_torchvision


def test_torchvision_open_clip_and_timm_import_beside_this_torch():
    needed = ensure_torchvision()
    assert ensure_torchvision() is needed  # a second call changes nothing
    import open_clip
    import timm
    from torchvision import transforms

    pixels = torch.arange(12, dtype=torch.float32).reshape(3, 2, 2)
    assert transforms.CenterCrop(1)(pixels).shape == (3, 1, 1)
    assert "ViT-L-14-quickgelu" in open_clip.list_models()
    assert timm.is_model("test_vit")


def test_a_declared_operator_without_its_code_still_fails_clearly():
    if not ensure_torchvision():
        pytest.skip("torchvision and torch are of one build here: nothing was declared")
    from torchvision.ops import nms

    with pytest.raises(RuntimeError, match="custom C\\+\\+ ops"):
        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
