"""The GPU path: its logic with a stand-in where there is no GPU; its pixels against the CPU where there is one."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from image_curation.decode.codec import CpuCodec, CudaCodec, Picture
from image_curation.decode.decoder import ImageDecoder
from image_curation.errors import ImageError
from image_curation.shards.header import read_header

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def encoded(image: Image.Image, name: str) -> bytes:
    file = io.BytesIO()
    image.save(file, name)
    return file.getvalue()


@pytest.fixture
def mixed(photos) -> list[bytes]:
    """Two plain JPEGs, one that the GPU refuses, and what goes to the host: PNG, GIF, CMYK, a truncated JPEG."""
    image = Image.open(io.BytesIO(photos[0]))
    others = [
        encoded(image, "PNG"),
        encoded(image, "GIF"),
        encoded(image.convert("CMYK"), "JPEG"),
        photos[1][: len(photos[1]) // 2],
    ]
    return [photos[0], photos[1], photos[2], *others]


def test_what_the_gpu_does_not_decode_goes_to_the_host(mixed):
    """All of `CudaCodec` but the GPU: nvImageCodec's CPU decoders in its place, refusing the third image."""
    codec = CudaCodec.__new__(CudaCodec)
    codec._device = torch.device("cpu")
    codec._host = CpuCodec(1)
    asked: list[int] = []

    class Decoder:
        def decode(self, images, params):
            asked.append(len(images))
            decoded = codec._host._listed.decode(images, params=params)
            return [None if image == mixed[2] else found for image, found in zip(images, decoded, strict=True)]

    codec._decoders = [Decoder(), Decoder()]
    codec._tensor = lambda image: torch.as_tensor(np.asarray(image))
    outcomes = codec.decode(mixed, [read_header(image) for image in mixed], 448)
    codec.close()
    assert asked == [3, 1]  # the plain JPEGs that are whole, then the one that is refused
    pictures = outcomes[:6]
    assert all(isinstance(picture, Picture) and isinstance(picture.pixels, torch.Tensor) for picture in pictures)
    used = ["nvimgcodec", "nvimgcodec", "simplejpeg", "nvimgcodec", "pillow", "nvimgcodec"]
    assert [picture.decoder for picture in pictures] == used
    assert np.array_equal(pictures[0].pixels.numpy(), pictures[3].pixels.numpy())  # the JPEG and the PNG made of it
    assert isinstance(outcomes[6], ImageError)


@needs_gpu
def test_mixed_list_on_the_gpu_is_as_on_the_cpu(mixed, decoder):
    expected = decoder.decode(mixed)
    with ImageDecoder(224, device="cuda", threads=2) as on_gpu:
        found = on_gpu.decode(mixed)
    assert found.pixels.is_cuda
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.errors.keys() == expected.errors.keys()
    for left, right in ((found.pixels.cpu().numpy(), expected.pixels), (found.thumbs, expected.thumbs)):
        assert np.abs(left.astype(int) - right).mean() < 1.5


@needs_gpu
def test_distance_between_gpu_and_cpu_on_photos(photos, decoder):
    images = photos[::3]
    with ImageDecoder(224, device="cuda", threads=4, batch_size=32) as on_gpu:
        found = on_gpu.decode(images)
        again = on_gpu.decode(images[::-1])
    expected = decoder.decode(images)
    assert torch.equal(again.pixels.flip(0), found.pixels)
    assert [(fact.width, fact.height) for fact in found.facts] == [(f.width, f.height) for f in expected.facts]
    distance = np.abs(found.pixels.cpu().numpy().astype(int) - expected.pixels).mean(axis=(1, 2, 3))
    print(f"GPU to CPU: mean {distance.mean():.3f}, worst photo {distance.max():.3f} of 255")
    assert distance.mean() < 1.0
    assert distance.max() < 3.0


@needs_gpu
def test_hostile_files_on_the_gpu(shared_data, photos):
    files = sorted((shared_data / "hostile-images" / "files").iterdir())
    with ImageDecoder(224, device="cuda", threads=4) as on_gpu:
        alone = on_gpu.decode(photos[:8])
        found = on_gpu.decode([*photos[:8], *(file.read_bytes() for file in files)])
        none = on_gpu.decode([b""])
    assert len(found.rows) + len(found.errors) == 8 + len(files)
    assert torch.equal(found.pixels[:8], alone.pixels)
    assert none.pixels.shape == (0, 224, 224, 3)
    assert none.pixels.is_cuda
