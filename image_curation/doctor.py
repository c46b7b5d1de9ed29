"""This machine -> a list of what works here: packages, GPU, decoding, weights, score heads, storage."""

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from image_curation.errors import CurationError, NoHead
from image_curation.processor import has_amx

State = Literal["ok", "absent", "broken"]

_PACKAGES = (
    "dagster",
    "torch",
    "open_clip_torch",
    "timm",
    "onnxruntime",
    "dask",
    "distributed",
    "pyarrow",
    "s3fs",
    "simplejpeg",
)
_DALI = ("nvidia-dali-cuda120", "nvidia-dali-cuda130")
_GPU_PACKAGES = ("dask-cuda", "cupy-cuda12x", "cupy-cuda13x", "cudf-cu12", "cudf-cu13", "cuml-cu12", "cuml-cu13")


@dataclass(frozen=True)
class Symptom:
    """One thing that was looked at. `absent` is no fault where the thing is not needed."""

    what: str
    state: State
    said: str


def examine() -> Iterator[Symptom]:
    """Look at everything, one by one."""
    yield Symptom("python", "ok", f"{platform.python_version()}, {os.cpu_count()} cores")
    yield from _packages()
    yield from _gpu()
    yield _try("decoding", _decodes)
    yield from _encoders()
    yield from _heads()


def _packages() -> Iterator[Symptom]:
    for name in _PACKAGES:
        version = _version(name)
        yield Symptom(name, "ok" if version else "broken", version or "not installed: run setup.sh again")
    dali = [f"{name} {_version(name)}" for name in _DALI if _version(name)]
    yield Symptom(
        "DALI", "ok" if dali else "broken", ", ".join(dali) or "not installed: choose the extra cpu, gpu or gpu-cu13"
    )


def _gpu() -> Iterator[Symptom]:
    import torch

    if not torch.cuda.is_available():
        tiles = ", whose AMX makes IMAGE_CURATION_CPU_DTYPE=bf16 worth it" if has_amx() else ""
        yield Symptom("GPU", "absent", f"none; everything runs on the CPU{tiles}")
        return
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    yield Symptom("GPU", "ok", f"{names}, CUDA {torch.version.cuda}")
    for name in _GPU_PACKAGES:
        if _version(name):
            yield Symptom(name, "ok", str(_version(name)))


def _decodes() -> str:
    """Decode a picture made here."""
    import io

    from PIL import Image

    from image_curation.config import resolve_device
    from image_curation.decode.decoder import ImageDecoder

    file = io.BytesIO()
    Image.new("RGB", (64, 48), (200, 30, 30)).save(file, "JPEG")
    device = resolve_device("auto")
    decoded = ImageDecoder(32, device).decode([file.getvalue(), b"no image"])
    if decoded.rows.tolist() != [0] or list(decoded.errors) != [1]:
        raise CurationError(f"a good and a bad image gave {decoded.rows.tolist()} and {decoded.errors}")
    return f"a good image is decoded on {device}, a bad one beside it is named"


def _encoders() -> Iterator[Symptom]:
    from image_curation.encoders import PROFILES
    from image_curation.encoders.weights import PINNED, cached_file

    for name, profile in PROFILES.items():
        source = PINNED.get((profile.model.removesuffix("-quickgelu"), profile.pretrained or ""))
        if source is None:
            yield Symptom(f"encoder {name}", "ok", "needs no weights; not CLIP")
        elif found := cached_file(source):
            yield Symptom(f"encoder {name}", "ok", f"weights at {found}")
        else:
            yield Symptom(f"encoder {name}", "absent", f"no weights here: `image-curation fetch {name}`, or --weights")


def _heads() -> Iterator[Symptom]:
    from image_curation.heads import HEADS, load_head

    for kind, space in HEADS:
        what = f"{kind} head"
        try:
            yield Symptom(what, "ok", load_head(kind, space).name)
        except NoHead:
            yield Symptom(what, "absent", f"not here for {space}: `image-curation fetch`, or --heads")
        except CurationError as error:
            yield Symptom(what, "broken", str(error))


def _try(what: str, look: Callable[[], str]) -> Symptom:
    try:
        return Symptom(what, "ok", look())
    except (CurationError, ImportError, RuntimeError, OSError) as error:
        return Symptom(what, "broken", f"{type(error).__name__}: {error}")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
