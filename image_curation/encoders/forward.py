"""How a torch model is run: the plain pass for any model and device, and the queue that keeps a GPU busy."""

import threading
from typing import Protocol

import torch

from image_curation.kernels import triton_runs

_MULTIPLIES = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.MultiheadAttention)


class Forward(Protocol):
    """uint8 [n, s, s, 3] RGB -> float32 [n, d] features."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor: ...


class Normalised:
    """Any model [n, 3, s, s] -> [n, d], on normalised pixels. Features stay on the model's device.

    Args:
        model: in evaluation mode; moved to `device` and `dtype`.
        mean, std: of the pixels in 0..1, by channel.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.model = model.to(device, dtype)
        self._dtype = dtype
        self._gain = 1 / (255 * torch.tensor(std, device=device))
        self._offset = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, s, s, 3] -> float32 [n, 3, s, s], in memory as it was."""
        if self._gain.shape != pixels.shape[2:]:  # one pixel as yet; torch is five times faster with a whole row
            self._gain, self._offset = (
                channels.expand(pixels.shape[2:]).contiguous() for channels in (self._gain, self._offset)
            )
        return pixels.float().mul_(self._gain).add_(self._offset).permute(0, 3, 1, 2)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.model(self.normalise(pixels).to(self._dtype))
        if isinstance(features, tuple):  # open_clip's CoCa also gives its tokens
            features = features[0]
        rows: torch.Tensor = features.float()
        return rows


class MixedOnCpu:
    """A model in fp32 on a CPU with its products in bf16; what they are added to and norms stay (torch's autocast)."""

    def __init__(self, forward: Normalised) -> None:
        self._forward = forward
        for module in forward.model.modules():
            if isinstance(module, _MULTIPLIES):  # autocast would turn their weights to bf16 for each pass
                module.to(torch.bfloat16)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self._forward(pixels)


class CudaQueue:
    """Runs a pass on batches of one shape, on a stream of its own. Several threads may call it.

    A call puts its batch behind those of the other threads and waits for its own features: with two threads, the GPU
    finds the next batch waiting whenever it is done with one. A fused pass is recorded once as a CUDA graph and
    replayed, so that the host's part of a batch is a few calls.

    Args:
        forward: works on whole batches.
        shape: (batch, s, s, 3).
        device: the GPU.
    """

    def __init__(self, forward: Forward, shape: tuple[int, int, int, int], device: torch.device) -> None:
        self._lock = threading.Lock()
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._forward = forward
        self._graph: torch.cuda.CUDAGraph | None = None
        with torch.cuda.device(device), torch.cuda.stream(self._stream), torch.inference_mode():
            self._pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
            self._features = forward(self._pixels)  # compiles kernels, chooses algorithms
            if not isinstance(forward, Normalised):
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                    self._features = forward(self._pixels)
        self._stream.synchronize()

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [n, s, s, 3], n at most the batch, on the host or ready on the caller's stream -> float32 on the host.

        What the rows after the nth hold does not matter: no row of the result depends on another.
        """
        caller = torch.cuda.current_stream(self._device)
        with self._lock, torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_stream(caller)
            self._pixels[: len(pixels)].copy_(pixels, non_blocking=True)
            if self._graph:
                self._graph.replay()
            else:
                self._features = self._forward(self._pixels)
            found = self._features[: len(pixels)]
            rows = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            rows.copy_(found, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]  # a waiting thread sleeps
            done.record(self._stream)
        done.synchronize()
        return rows


def is_fusable(model: torch.nn.Module, device: torch.device) -> bool:
    """Whether `fused_vit.FusedVit` can run this model on this GPU."""
    if not triton_runs():
        return False
    from image_curation.encoders import fused_vit

    return fused_vit.is_supported(model, device)
