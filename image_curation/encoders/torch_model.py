"""Turns a torch image model into an encoder, and reads the weights for it."""

import hashlib
import pickle
import warnings
import zipfile
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors
import torch

from image_curation.encoders.base import GEOMETRY, Pixels, Profile, check_pixels, unit_rows
from image_curation.encoders.forward import CudaQueue, Forward, MixedOnCpu, Normalised, is_fusable
from image_curation.encoders.weights import WeightsFile
from image_curation.errors import ConfigError, WeightsError
from image_curation.processor import keep_freed_memory

# Images in one forward pass. On a GPU the last batch is filled up, so that every pass has the same shape; on a CPU that
# would cost more than it gives. 262 images of ViT-L/14 are 526 tiles of 128 tokens: the 132 multiprocessors of an H100
# or H200 are then busy in the last round of tiles of each product too; 256 images would leave half of them idle.
_CUDA_BATCH, _CPU_BATCH = 262, 32


class TorchEncoder:
    """A torch model [n, 3, size, size] -> [n, dim] with the normalisation it was trained with."""

    def __init__(
        self,
        profile: Profile,
        model: torch.nn.Module,
        device: str,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        weights_sha256: str,
    ) -> None:
        self._device = checked_device(device)
        self.batch = _CUDA_BATCH if self._device.type == "cuda" else _CPU_BATCH
        model = model.requires_grad_(False).eval()
        self._forward: Forward
        if self._device.type == "cuda":
            forward = _gpu_forward(model, mean, std, self.batch, profile, self._device)
            self._forward = CudaQueue(forward, (self.batch, profile.size, profile.size, 3), self._device)
        else:
            keep_freed_memory()
            in_fp32 = Normalised(model, mean, std, torch.float32, self._device)
            self._forward = MixedOnCpu(in_fp32) if profile.dtype == "bf16" else in_fp32
        self.dim = profile.dim or self._measured_dim(profile)
        self.profile = replace(profile, dim=self.dim)
        self.weights_sha256 = weights_sha256
        self.preprocessing = f"{GEOMETRY.format(size=profile.size)}; /255, mean {_numbers(mean)}, std {_numbers(std)}"

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float16]:
        """See `Encoder.encode`."""
        check_pixels(pixels, self.profile.size)
        return unit_rows(self._features(pixels), self.profile.name)

    def _features(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """uint8 [n, size, size, 3] -> float32 [n, dim] in host memory."""
        starts = range(0, len(pixels), self.batch)
        with torch.inference_mode():
            parts = [self._forward(torch.as_tensor(pixels[start : start + self.batch])) for start in starts]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.dim), np.float32)

    def _measured_dim(self, profile: Profile) -> int:
        with torch.inference_mode():
            features = self._forward(torch.zeros((1, profile.size, profile.size, 3), dtype=torch.uint8))
        if features.ndim != 2:
            raise ConfigError(
                f"encoder {profile.name}: the model gives {list(features.shape)}, not one vector an image [n, d]. "
                "Choose a model that pools its features."
            )
        return int(features.shape[1])


def _gpu_forward(
    model: torch.nn.Module,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    batch: int,
    profile: Profile,
    device: torch.device,
) -> Forward:
    """The fused pass where there is one for this model and GPU, else the model as it is.

    Raises:
        ConfigError: the profile asks for fp8, which only the fused pass has.
    """
    if is_fusable(model, device):
        from image_curation.encoders.fused_vit import FusedVit

        return FusedVit(model, mean, std, batch, profile.dtype, device)
    if profile.dtype == "fp8":
        raise ConfigError(
            f"encoder {profile.name}: fp8 needs a plain vision transformer, Triton and a GPU of compute capability 9.0 "
            f"(H100, H200) or later; here is {torch.cuda.get_device_name(device)}. Use the profile without fp8."
        )
    return Normalised(model, mean, std, torch.bfloat16 if profile.dtype == "bf16" else torch.float32, device)


def checked_device(device: str) -> torch.device:
    """The torch device of this name.

    Raises:
        ConfigError: it is not there.
    """
    kind, _, number = device.partition(":")
    if device != "cpu" and (kind != "cuda" or not (number or "0").isdecimal()):
        raise ConfigError(f"device {device!r} is not one of: cpu, cuda, cuda:N.")
    gpus = torch.cuda.device_count()
    if kind == "cuda" and int(number or 0) >= gpus:
        found = f"{gpus} CUDA GPUs here, numbered from 0" if gpus else "no CUDA GPU here. Use the device 'cpu'"
        raise ConfigError(f"device {device!r}: torch {torch.__version__} sees {found}.")
    return torch.device(device)


def read_state_dict(file: WeightsFile, prefix: str, name: str) -> dict[str, torch.Tensor]:
    """The tensors of a weights file whose names start with `prefix`, without it; all of them where none does.

    Nothing is unpickled beyond tensors and plain containers. TorchScript archives (OpenAI's own files) carry code, so
    only those with a pinned checksum are opened.

    Raises:
        WeightsError: the file is damaged, of another kind, or would need unsafe unpickling.
    """
    try:
        if file.path.suffix == ".safetensors":
            return _read_safetensors(file, prefix)
        tensors = _read_torchscript(file, name) if _is_torchscript(file) else _read_checkpoint(file)
    # What torch.load raises for damaged files depends on the byte at which it gives up.
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, KeyError, EOFError, ValueError) as error:
        raise WeightsError(
            f"encoder {name}: {file.path} cannot be read as weights ({type(error).__name__}: {str(error)[:200]}). "
            "Give a .safetensors file, or a .pt, .pth or .bin file that holds only tensors."
        ) from error
    return _without_prefix(tensors, prefix)


def load_strictly(model: torch.nn.Module, tensors: dict[str, torch.Tensor], file: WeightsFile, name: str) -> None:
    """Make tensors those of a model, as fp32; every name and shape has to fit.

    Raises:
        WeightsError: they are those of another architecture.
    """
    try:
        model.load_state_dict({key: value.float() for key, value in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise mismatch(file, name, error) from error


def mismatch(file: WeightsFile, name: str, error: Exception) -> WeightsError:
    """The error for weights that do not fit their model."""
    reason = " ".join(str(error).split())[:400]
    return WeightsError(
        f"encoder {name}: {file.path} holds the weights of another architecture ({reason}). "
        "Give the file that belongs to this model, or the model that belongs to this file."
    )


def sha256_of_state(model: torch.nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all parameters and buffers."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_safetensors(file: WeightsFile, prefix: str) -> dict[str, torch.Tensor]:
    with safetensors.safe_open(file.path, "pt") as opened:
        keys = list(opened.keys())
        wanted = [key for key in keys if key.startswith(prefix)] or keys
        return {key.removeprefix(prefix): opened.get_tensor(key) for key in wanted}


def _read_checkpoint(file: WeightsFile) -> dict[str, torch.Tensor]:
    content: Any = torch.load(file.path, map_location="cpu", weights_only=True)
    while isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ValueError(f"holds a {type(content).__name__}, not tensors by name")
    return {key.removeprefix("module."): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _is_torchscript(file: WeightsFile) -> bool:
    if not zipfile.is_zipfile(file.path):
        return False
    with zipfile.ZipFile(file.path) as archive:
        return any(entry.endswith("/constants.pkl") for entry in archive.namelist())


def _read_torchscript(file: WeightsFile, name: str) -> dict[str, torch.Tensor]:
    if not file.pinned:
        raise WeightsError(
            f"encoder {name}: {file.path} is a TorchScript archive, which carries code, and its checksum {file.sha256} "
            "is not a known one. If you trust it, say so by appending @sha256: and this checksum to the path."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return dict(torch.jit.load(file.path, map_location="cpu").state_dict())  # type: ignore[no-untyped-call]


def _without_prefix(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    chosen = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return chosen or tensors


def _numbers(values: tuple[float, ...]) -> str:
    return "/".join(f"{value:g}" if value != round(value, 8) else repr(value) for value in values)
