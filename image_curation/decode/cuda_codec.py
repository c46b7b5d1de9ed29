"""Encoded images -> upright RGB pixels on a GPU: JPEGs by its own decoders, all else by the host, then uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch
from nvidia import nvimgcodec  # type: ignore[attr-defined]

from image_curation.decode.codec import PARAMS, CpuCodec, check_decoder, decodes_gray, picture_of
from image_curation.decode.jpeg import is_plain, is_whole
from image_curation.decode.picture import Picture
from image_curation.errors import ImageError
from image_curation.shards.header import Header


class CudaCodec:
    """Decodes JPEGs on a GPU, in its JPEG engine or else on its cores; all else, and what both refuse, by `host`.

    The engine and the other cores get a decoder each. One decoder for both would share a list out between them by its
    length, and they differ by up to 3 of 255: an image's pixels would depend on its neighbours. Measured on an H200,
    the engine is within 1e-4 of libjpeg-turbo on average, the other cores within 0.05.

    JPEGs are not reduced here, and a GPU fills what is damaged or cut off with grey, without a word. So those that
    their header calls damaged, or that lack their end marker, are the host's; no other is ever called damaged.
    """

    def __init__(self, device_id: int, threads: int, host: CpuCodec) -> None:
        self._device = torch.device("cuda", device_id)
        self._host = host
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="decode-host")
        engine, cores = (
            nvimgcodec.Decoder(
                device_id=device_id,
                max_num_cpu_threads=threads,
                backends=[nvimgcodec.Backend(kind)],
                options=":fancy_upsampling=1",  # chroma as libjpeg-turbo, and so CLIP's training, interpolates it
            )
            for kind in (nvimgcodec.BackendKind.HW_GPU_ONLY, nvimgcodec.BackendKind.HYBRID_CPU_GPU)
        )
        check_decoder(cores, f"on GPU {device_id}")
        self._decoders = [engine, cores] if decodes_gray(engine) else [cores]  # not every GPU has an engine

    def decode(self, images: Sequence[bytes], headers: Sequence[Header]) -> list[Picture | ImageError]:
        """One outcome an image, in order. The pixels are ready on torch's current stream.

        What the GPU is not asked for, the host decodes meanwhile; what the GPU refuses, after it.
        """
        asked = [i for i, data in enumerate(images) if _is_for_gpu(data, headers[i])]
        others = sorted(set(range(len(images))) - set(asked))
        meanwhile = self._beside.submit(self._decode_on_host, images, headers, others)
        found: dict[int, Picture | ImageError] = {}
        for decoder in self._decoders:
            left = [i for i in asked if i not in found]
            if left:
                found |= self._decode_with(decoder, images, headers, left)
        found |= self._uploaded(meanwhile.result())
        found |= self._uploaded(self._decode_on_host(images, headers, [i for i in asked if i not in found]))
        return [found[i] for i in range(len(images))]

    def close(self) -> None:
        """Stop the thread."""
        self._beside.shutdown()

    def _decode_with(
        self, decoder: nvimgcodec.Decoder, images: Sequence[bytes], headers: Sequence[Header], chosen: Sequence[int]
    ) -> dict[int, Picture]:
        """The pictures, by position, of those chosen images that a decoder of the GPU does not refuse."""
        decoded = decoder.decode([images[i] for i in chosen], params=PARAMS, cuda_stream=self._stream())
        pictures: dict[int, Picture] = {}
        for i, image in zip(chosen, decoded, strict=True):
            if image is None:
                continue
            picture = picture_of(_pixels(image, headers[i]), headers[i], 1, "nvimgcodec", damaged=False)
            if picture is not None:
                pictures[i] = picture
        return pictures

    def _stream(self) -> int:
        return torch.cuda.current_stream(self._device).cuda_stream

    def _decode_on_host(
        self, images: Sequence[bytes], headers: Sequence[Header], chosen: Sequence[int]
    ) -> dict[int, Picture | ImageError]:
        """The outcome, by position, of each chosen image; numpy pixels."""
        outcomes = self._host.decode([images[i] for i in chosen], [headers[i] for i in chosen], _kept)
        return dict(zip(chosen, outcomes, strict=True))

    def _uploaded(self, outcomes: dict[int, Picture | ImageError]) -> dict[int, Picture | ImageError]:
        return {i: self._upload(outcome) for i, outcome in outcomes.items()}

    def _upload(self, outcome: Picture | ImageError) -> Picture | ImageError:
        if isinstance(outcome, ImageError):
            return outcome
        return replace(outcome, pixels=torch.from_numpy(outcome.pixels).to(self._device))


def _kept(_: int, picture: Picture) -> Picture:
    """The picture with pixels of its own."""
    return replace(picture, pixels=picture.pixels.copy())


def _pixels(image: nvimgcodec.Image, header: Header) -> Any:
    """The image as it is, where DALI can read it so: making a tensor takes longer than all else that the host does."""
    packed = image.strides[0] == 3 * image.shape[1]
    return image if packed and header.orientation == 1 else torch.utils.dlpack.from_dlpack(image).contiguous()


def _is_for_gpu(data: bytes, header: Header) -> bool:
    return header.format == "JPEG" and not header.damaged and is_plain(data) and is_whole(data)
