"""The GPU path: its logic with a stand-in where there is no GPU; its pixels against the CPU where there is one."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from image_curation.decode import cuda
from image_curation.decode.codec import CpuCodec
from image_curation.decode.cuda_codec import CudaCodec, _kept
from image_curation.decode.decoder import ImageDecoder
from image_curation.decode.jpeg import looked_into
from image_curation.decode.measures import measure
from image_curation.decode.picture import Picture
from image_curation.decode.pipeline import PixelPipeline
from image_curation.decode.resize import crop_and_thumb
from image_curation.errors import ImageError
from image_curation.shards.header import read_header

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def encoded(image: Image.Image, name: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


STRIPS = [(2001, 97), (97, 2001), (3000, 450), (450, 3001)]


@pytest.fixture
def mixed(photos) -> list[bytes]:
    """Two plain JPEGs, one that the GPU refuses, a turned one; for the host a PNG, a GIF, a CMYK and a cut-off JPEG.
    Last one with a hole, of which the GPU does not say so."""
    image = Image.open(io.BytesIO(photos[0]))
    turned = Image.Exif()
    turned[0x0112] = 6
    others = [
        encoded(image, "JPEG", exif=turned),
        encoded(image, "PNG"),
        encoded(image, "GIF"),
        encoded(image.convert("CMYK"), "JPEG"),
        photos[1][: len(photos[1]) // 2],
        photos[3][:20_000] + bytes(4_000) + photos[3][24_000:],
    ]
    return [photos[0], photos[1], photos[2], *others]


@pytest.mark.parametrize("told", [True, False])
def test_what_the_gpu_does_not_decode_goes_to_the_host(mixed, told):
    """All of `CudaCodec` but the GPU: nvImageCodec's CPU decoders in its place, refusing the third image."""
    asked: list[int] = []

    class OnHost:
        """What nvImageCodec gives for an image on a GPU, as far as it is used."""

        def __init__(self, image):
            self._pixels = torch.as_tensor(np.asarray(image))
            self.shape, self.strides = image.shape, image.strides

        def __dlpack__(self, **options):
            return self._pixels.__dlpack__()

        def __dlpack_device__(self):
            return self._pixels.__dlpack_device__()

    class Decoder:
        def decode(self, images, params, cuda_stream):
            asked.append(len(images))
            decoded = codec._host._listed.decode(images, params=params)
            return [None if image == mixed[2] else OnHost(found) for image, found in zip(images, decoded, strict=True)]

    with ThreadPoolExecutor(2) as pool:
        codec = CudaCodec.__new__(CudaCodec)
        codec._device, codec._decoders = torch.device("cpu"), [Decoder(), Decoder()]
        codec._host, codec._beside = CpuCodec(pool, 448), pool
        codec._stream = lambda: 0
        headers = [looked_into(read_header(i), i) if told else read_header(i) for i in mixed]
        outcomes = codec.decode(mixed, headers)
    assert asked == [4 if told else 5, 1]  # the plain JPEGs that are whole, then the one that is refused
    assert isinstance(outcomes[8], Picture)
    assert outcomes[8].facts.damaged == isinstance(outcomes[8].pixels, torch.Tensor) == told
    pictures = outcomes[:7]
    assert all(isinstance(picture, Picture) for picture in pictures)
    used = ["nvimgcodec", "nvimgcodec", "simplejpeg", "nvimgcodec", "nvimgcodec", "pillow", "nvimgcodec"]
    assert [picture.facts.decoder for picture in pictures] == used
    assert [isinstance(picture.pixels, torch.Tensor) for picture in pictures] == [False, False, *[True] * 5]
    assert np.array_equal(torch.from_dlpack(pictures[0].pixels), pictures[4].pixels)  # the JPEG and the PNG made of it
    assert (pictures[3].facts.width, pictures[3].facts.height) == tuple(pictures[3].pixels.shape[1::-1])
    assert tuple(pictures[3].pixels.shape[:2]) == pictures[0].pixels.shape[1::-1]
    assert isinstance(outcomes[7], ImageError)


def test_dalis_crops_are_those_of_the_host(photos, decoder):
    """The pipeline of the GPU, run on the CPU: both resize to the same geometry. Reduced JPEGs and strips included."""
    strips = [encoded(Image.open(io.BytesIO(photos[i])).resize(size), "BMP") for i, size in enumerate(STRIPS)]
    images = [*photos[::6], *strips]
    with ThreadPoolExecutor(2) as pool:
        headers = [read_header(image) for image in images]
        pictures = CpuCodec(pool, 448).decode(images, headers, _kept)
    assert {picture.reduction for picture in pictures} == {1, 2}
    pipeline = PixelPipeline(224, len(images), 1, None)
    crops, _ = pipeline.run([picture.pixels for picture in pictures], pictures)
    distance = np.abs(np.array(crops).astype(int) - decoder.decode(images).pixels).mean(axis=(1, 2, 3))
    print(f"photos: mean {distance[:-4].mean():.3f}, worst {distance[:-4].max():.3f}; strips: {distance[-4:].round(3)}")
    assert distance.max() < 0.5


@needs_gpu
@pytest.mark.parametrize("size", [224, 336])
def test_kernels_crop_as_the_host_does_bit_by_bit(photos, size):
    """Photos that were reduced and others, images smaller than the crop, and strips, which the host resizes."""
    tiny = [encoded(Image.open(io.BytesIO(photos[0])).resize(side), "PNG") for side in [(1, 1), (9, 12), (60, 223)]]
    strips = [encoded(Image.open(io.BytesIO(photos[0])).resize(side), "PNG") for side in STRIPS]
    images = [*photos[::3], *tiny, *strips]
    headers = [read_header(image) for image in images]
    with ThreadPoolExecutor(2) as pool:
        pictures = CpuCodec(pool, 448).decode(images, headers, _kept)
    assert {picture.reduction for picture in pictures} == {1, 2}
    sizes = [(picture.facts.width, picture.facts.height) for picture in pictures]
    expected = [crop_and_thumb(p.pixels, p.reduction, s, size) for p, s in zip(pictures, sizes, strict=True)]
    on_gpu = [replace(picture, pixels=torch.from_numpy(picture.pixels).cuda()) for picture in pictures]
    with ImageDecoder(size, device="cuda") as decoder:
        crops, thumbs = decoder._preparer._cropped(on_gpu)
    assert (crops.cpu().numpy() == np.stack([crop for crop, _ in expected])).all()
    assert (thumbs.cpu().numpy() == np.stack([thumb for _, thumb in expected])).all()


@needs_gpu
def test_dali_stands_in_where_triton_does_not_run(photos, monkeypatch):
    with ImageDecoder(224, device="cuda", threads=2) as decoder:
        expected = decoder.decode(photos[:20])
    monkeypatch.setattr(cuda, "triton_runs", lambda: False)
    with ImageDecoder(224, device="cuda", threads=2) as decoder:
        assert decoder._preparer._dali is not None
        found = decoder.decode(photos[:20])
    assert (found.pixels.float() - expected.pixels.float()).abs().mean() < 0.3
    assert np.bitwise_count(found.measures["phash"] ^ expected.measures["phash"]).max() <= 4


@needs_gpu
def test_mixed_list_on_the_gpu_is_as_on_the_cpu(mixed, decoder):
    expected = decoder.decode(mixed)
    with ImageDecoder(224, device="cuda", threads=2) as on_gpu:
        found = on_gpu.decode(mixed, [looked_into(read_header(image), image) for image in mixed])
    assert found.pixels.is_cuda
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.errors.keys() == expected.errors.keys()
    assert [(f.width, f.height, f.damaged) for f in found.facts] == [
        (f.width, f.height, f.damaged) for f in expected.facts
    ]
    assert np.abs(found.pixels.cpu().numpy().astype(int) - expected.pixels).mean() < 1.5
    assert np.bitwise_count(found.measures["phash"] ^ expected.measures["phash"]).max() <= 4
    for name in ("sharpness", "exposure", "contrast"):
        assert found.measures[name].dtype == np.float32
        assert found.measures[name] == pytest.approx(expected.measures[name], rel=0.1), name


@needs_gpu
def test_distance_between_gpu_and_cpu_on_photos(photos, decoder):
    images = photos[::3]
    with ImageDecoder(224, device="cuda", threads=4, batch_size=32) as on_gpu:
        found = on_gpu.decode(images, [read_header(image) for image in images])
        again = on_gpu.decode(images[::-1])
        alone = on_gpu.decode(images[:1])
    expected = decoder.decode(images)
    assert torch.equal(again.pixels.flip(0), found.pixels)
    assert torch.equal(alone.pixels[0], found.pixels[0])
    for name, values in found.measures.items():
        assert np.array_equal(again.measures[name][::-1], values), name
        assert alone.measures[name][0] == values[0], name
    assert [(fact.width, fact.height) for fact in found.facts] == [(f.width, f.height) for f in expected.facts]
    distance = np.abs(found.pixels.cpu().numpy().astype(int) - expected.pixels).mean(axis=(1, 2, 3))
    bits = np.bitwise_count(found.measures["phash"] ^ expected.measures["phash"])
    print(f"GPU to CPU: mean {distance.mean():.3f}, worst photo {distance.max():.3f} of 255; phash bits {bits.max()}")
    assert distance.mean() < 1.0
    assert distance.max() < 3.0
    assert bits.max() <= 4


@needs_gpu
def test_pixels_are_complete_on_any_stream_while_another_is_busy(photos):
    """The decoder does not return early. That it waits for a foreign stream, as it was seen to do, is told only."""
    images = photos[:64]
    busy = torch.cuda.Stream()
    with ImageDecoder(224, device="cuda", threads=4) as on_gpu:
        expected = on_gpu.decode(images).pixels.cpu()
        for _ in range(5):
            with torch.cuda.stream(busy):
                torch.cuda._sleep(2_000_000_000)  # about a second
            found = on_gpu.decode(images).pixels
            print("the decoder", "waited for" if busy.query() else "did not wait for", "a stream that is not its own")
            with torch.cuda.stream(torch.cuda.Stream()):
                copy = found.clone()
                torch.cuda.current_stream().synchronize()
            busy.synchronize()
            assert torch.equal(copy.cpu(), expected)


@needs_gpu
def test_two_decoders_on_one_gpu_do_not_disturb_each_other(photos):
    lists = [photos[:60], photos[60:120]]
    found: dict[int, list[torch.Tensor]] = {0: [], 1: []}

    def decode(number: int) -> None:
        with ImageDecoder(224, device="cuda", threads=2) as on_gpu:
            for _ in range(5):
                found[number].append(on_gpu.decode(lists[number]).pixels.cpu())

    threads = [threading.Thread(target=decode, args=[number]) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with ImageDecoder(224, device="cuda", threads=4) as on_gpu:
        for number, images in enumerate(lists):
            expected = on_gpu.decode(images).pixels.cpu()
            assert len(found[number]) == 5
            assert all(torch.equal(pixels, expected) for pixels in found[number])


@needs_gpu
def test_hostile_files_on_the_gpu(shared_data, photos):
    files = sorted((shared_data / "hostile-images" / "files").iterdir())
    with ImageDecoder(224, device="cuda", threads=4) as on_gpu:
        alone = on_gpu.decode(photos[:8])
        found = on_gpu.decode([*photos[:8], *(file.read_bytes() for file in files)])
        none = on_gpu.decode([b""])
    assert len(found.rows) + len(found.errors) == 8 + len(files)
    assert torch.equal(found.pixels[:8], alone.pixels)
    for name, values in alone.measures.items():
        assert np.array_equal(found.measures[name][:8], values), name
        assert none.measures[name].shape == (0,)
    assert none.pixels.shape == (0, 224, 224, 3)
    assert none.pixels.is_cuda


@needs_gpu
def test_sharpness_on_the_gpu_is_that_of_the_host_bit_by_bit(photos, decoder):
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), np.uint8)
    crops = np.concatenate([decoder.decode(photos[:40]).pixels, noise])
    thumbs = np.zeros((len(crops), 64, 64, 3), np.uint8)
    found = measure(torch.from_numpy(crops).cuda(), torch.from_numpy(thumbs).cuda())
    assert np.array_equal(found["sharpness"], measure(crops, thumbs)["sharpness"])
