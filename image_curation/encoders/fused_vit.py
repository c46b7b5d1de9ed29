"""open_clip's vision transformer on a Hopper GPU: the same function of the same weights, in fewer passes over memory.

What differs from open_clip's own forward pass:
- A product adds its result to the residual in place (cuBLAS: beta = 1). The biases that belong to it are summed up in a
  vector of their own, which the following LayerNorms take into account.
- The first product of an MLP applies the activation before it writes.
- The pixels' mean and standard deviation lie in the first weights; pixels / 256 are exact in fp16.
- Only the class token's vector is wanted, so of the last block only its row is computed: 1/29 of all products saved.
- In fp8 (e4m3), three of four products take operands scaled row by row: activations when they are made, weights once.
"""

from typing import Any

import torch
from torch import nn

from image_curation.encoders import vit_kernels as kernels
from image_curation.encoders.base import Dtype


def is_supported(tower: nn.Module, device: torch.device) -> bool:
    """Whether this tower is a plain one, with heads of 64 channels, and the GPU has Hopper's tensor copies."""
    from open_clip.transformer import QuickGELU, ResidualAttentionBlock, VisionTransformer

    if not isinstance(tower, VisionTransformer) or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    blocks: list[Any] = list(tower.transformer.resblocks)
    return (
        tower.attn_pool is None
        and tower.pool_type == "tok"
        and isinstance(tower.ln_pre, nn.LayerNorm)
        and tower.proj is not None
        and all(
            type(block) is ResidualAttentionBlock
            and isinstance(block.ls_1, nn.Identity)
            and isinstance(block.mlp.gelu, (QuickGELU, nn.GELU))
            and block.attn.head_dim == kernels.HEAD
            and tower.conv1.out_channels % kernels.COLUMNS == 0
            and block.mlp.c_fc.out_features % kernels.COLUMNS == 0
            for block in blocks
        )
    )


class FusedVit:
    """The forward pass of one tower for batches of one size. Its buffers are its own: one call at a time.

    Args:
        tower: an open_clip VisionTransformer in fp32, for which `is_supported` holds.
        mean, std: of the pixels in 0..1, by channel.
        batch: images in a call.
        dtype: "bf16" or "fp8".
        device: where to compute.
    """

    def __init__(
        self,
        tower: Any,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        batch: int,
        dtype: Dtype,
        device: torch.device,
    ) -> None:
        tower = tower.to(device)
        self._patch = tower.conv1.kernel_size[0]
        self._pixel_weight, pixel_bias = _pixel_weight(tower.conv1.weight, mean, std)
        self._class_token = tower.class_embedding.detach()
        self._positions = tower.positional_embedding.detach().clone()
        self._positions[1:] += pixel_bias
        self._norm_pre = tower.ln_pre
        self._blocks: list[_Block | _Fp8Block] = []
        bias = torch.zeros_like(self._class_token)
        layers = list(tower.transformer.resblocks)
        for layer in layers[:-1]:
            self._blocks.append(_Fp8Block(layer, bias) if dtype == "fp8" else _Block(layer, bias))
            bias = _with_biases_of(layer, bias)
        self._last = _Block(layers[-1], bias)
        bias = _with_biases_of(layers[-1], bias)
        self._norm_post, self._bias = tower.ln_post, bias
        self._projection = tower.proj.detach().to(torch.bfloat16)
        hidden = layers[0].mlp.c_fc.out_features
        self._buffers = _Buffers(batch, len(self._positions), len(bias), hidden, dtype, device)
        patches = batch * (len(self._positions) - 1)
        self._patches = torch.empty((patches, self._pixel_weight.shape[1]), dtype=torch.float16, device=device)
        self._embedded = torch.empty((patches, len(bias)), dtype=torch.float16, device=device)

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [batch, s, s, 3] -> fp32 [batch, d], not scaled to unit length, on the current stream."""
        kernels.to_patches(pixels, self._patches, self._patch)
        torch.mm(self._patches, self._pixel_weight.t(), out=self._embedded)
        kernels.embed(self._embedded, self._class_token, self._positions, self._norm_pre, self._buffers.x)
        self._buffers.to_add = None
        for block in self._blocks:
            block.run(self._buffers)
        last = self._last.run_class_token(self._buffers)
        kernels.layer_norm(last, self._bias, self._norm_post, last)
        features: torch.Tensor = (last @ self._projection).float()
        return features


class _Buffers:
    """The residual `x` and what a block writes beside it, a row a token; bf16 where nothing else is said."""

    def __init__(self, batch: int, tokens: int, width: int, hidden: int, dtype: Dtype, device: torch.device) -> None:
        def matrix(columns: int, kind: torch.dtype = torch.bfloat16) -> torch.Tensor:
            return torch.empty((batch * tokens, columns), dtype=kind, device=device)

        self.tokens = tokens
        self.x, self.mixed = matrix(width), matrix(width)
        self.qkv, self.hidden = matrix(3 * width), matrix(hidden)
        if dtype == "fp8":
            self.normed_fp8, self.hidden_fp8 = matrix(width, torch.float8_e4m3fn), matrix(hidden, torch.float8_e4m3fn)
            self.scales = torch.empty(batch * tokens, device=device)
        self.to_add: torch.Tensor | None = None
        """What an fp8 block could not add to `x`: its products cannot add in place, but the next LayerNorm can."""


class _Block:
    """A residual attention block in bf16. `bias` [w] is what all blocks before it should have added to the residual."""

    def __init__(self, layer: Any, bias: torch.Tensor) -> None:
        attn, mlp = layer.attn, layer.mlp
        self._activation = _activation(layer)
        self._norm_1, self._bias_1 = layer.ln_1, bias
        self._norm_2, self._bias_2 = layer.ln_2, bias + attn.out_proj.bias.detach()
        self._qkv, self._qkv_bias = (tensor.to(torch.bfloat16) for tensor in _qkv(attn))
        self._out = attn.out_proj.weight.detach().to(torch.bfloat16)
        self._up, self._up_bias = (t.detach().to(torch.bfloat16) for t in (mlp.c_fc.weight, mlp.c_fc.bias))
        self._down = mlp.c_proj.weight.detach().to(torch.bfloat16)

    def run(self, buffers: _Buffers) -> None:
        """Add what the block finds to the residual of all tokens."""
        x = buffers.x
        kernels.layer_norm(x, self._bias_1, self._norm_1, buffers.mixed)
        torch.addmm(self._qkv_bias, buffers.mixed, self._qkv.t(), out=buffers.qkv)
        kernels.attention(buffers.qkv, buffers.tokens, buffers.mixed)
        x.addmm_(buffers.mixed, self._out.t())
        self._run_mlp(x, buffers.mixed, buffers.hidden)

    def run_class_token(self, buffers: _Buffers) -> torch.Tensor:
        """The residual of the class token after the block, bf16 [batch, w]. All tokens give keys and values."""
        if buffers.to_add is not None:
            buffers.x.add_(buffers.to_add)
        width = buffers.x.shape[1]
        of_class = slice(buffers.tokens - 1, None, buffers.tokens)
        kernels.layer_norm(buffers.x, self._bias_1, self._norm_1, buffers.mixed)
        queries = torch.addmm(self._qkv_bias[:width], buffers.mixed[of_class], self._qkv[:width].t())
        keys_values = buffers.qkv.view(-1)[: 2 * buffers.x.numel()].view(-1, 2 * width)
        torch.addmm(self._qkv_bias[width:], buffers.mixed, self._qkv[width:].t(), out=keys_values)
        mixed = torch.empty_like(queries)
        kernels.class_attention(queries, keys_values, buffers.tokens, mixed)
        x = torch.addmm(buffers.x[of_class], mixed, self._out.t())
        self._run_mlp(x, mixed, buffers.hidden[: len(x)])
        return x

    def _run_mlp(self, x: torch.Tensor, normed: torch.Tensor, hidden: torch.Tensor) -> None:
        kernels.layer_norm(x, self._bias_2, self._norm_2, normed)
        kernels.linear_activation(normed, self._up, self._up_bias, self._activation, hidden)
        x.addmm_(hidden, self._down.t())


class _Fp8Block:
    """The same block with three of its four products in fp8: attention's output has no pass in which to scale it."""

    def __init__(self, layer: Any, bias: torch.Tensor) -> None:
        attn, mlp = layer.attn, layer.mlp
        self._activation = _activation(layer)
        self._norm_1, self._bias_1 = layer.ln_1, bias
        self._norm_2, self._bias_2 = layer.ln_2, bias + attn.out_proj.bias.detach()
        self._qkv = _Fp8Linear(*_qkv(attn))
        self._out = attn.out_proj.weight.detach().to(torch.bfloat16)
        self._up = _Fp8Linear(mlp.c_fc.weight, mlp.c_fc.bias)
        self._down = _Fp8Linear(mlp.c_proj.weight, torch.zeros_like(bias))

    def run(self, buffers: _Buffers) -> None:
        """Add what the block finds to the residual of all tokens; the last part waits in `buffers.to_add`."""
        x, normed, scales = buffers.x, buffers.normed_fp8, buffers.scales
        kernels.layer_norm(x, self._bias_1, self._norm_1, normed, scales, buffers.to_add)
        self._qkv(normed, scales, buffers.qkv)
        kernels.attention(buffers.qkv, buffers.tokens, buffers.mixed)
        x.addmm_(buffers.mixed, self._out.t())
        kernels.layer_norm(x, self._bias_2, self._norm_2, normed, scales)
        self._up(normed, scales, buffers.hidden)
        kernels.quantized_activation(buffers.hidden, self._activation, buffers.hidden_fp8, scales)
        self._down(buffers.hidden_fp8, scales, buffers.mixed)
        buffers.to_add = buffers.mixed


class _Fp8Linear:
    """A linear layer whose weight [n, k] is scaled row by row, so that the largest of a row is the largest of e4m3."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        largest = torch.finfo(torch.float8_e4m3fn).max
        self._scales = weight.detach().abs().amax(1).clamp(min=1e-12) / largest
        self._weight = (weight.detach() / self._scales[:, None]).to(torch.float8_e4m3fn)
        self._bias = bias.detach().to(torch.bfloat16)

    def __call__(self, x: torch.Tensor, scales: torch.Tensor, out: torch.Tensor) -> None:
        """x fp8 [m, k], a scale for each row -> bf16 [m, n]."""
        torch._scaled_mm(
            x, self._weight.t(), scales[:, None], self._scales[None, :], self._bias,
            out_dtype=torch.bfloat16, use_fast_accum=True, out=out,
        )  # fmt: skip


def _qkv(attn: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight [3 w, w] and bias [3 w] that give queries, scaled as the kernels want them, keys and values."""
    scale = torch.ones_like(attn.in_proj_bias)
    scale[: len(scale) // 3] = kernels.QUERY_SCALE
    return attn.in_proj_weight.detach() * scale[:, None], attn.in_proj_bias.detach() * scale


def _activation(layer: Any) -> str:
    return "gelu" if isinstance(layer.mlp.gelu, nn.GELU) else "quick_gelu"


def _with_biases_of(layer: Any, bias: torch.Tensor) -> torch.Tensor:
    """What is missing in the residual once this layer has gone without its output biases too."""
    total: torch.Tensor = bias + layer.attn.out_proj.bias.detach() + layer.mlp.c_proj.bias.detach()
    return total


def _pixel_weight(
    conv: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The patch embedding [w, 3, p, p] for pixels / 256 in the order row, column, channel, and its bias.

    Returns:
        fp16 [w, k], k filled up to a multiple of 64, and fp32 [w].
    """
    conv = conv.detach().double()
    mean_, std_ = (torch.tensor(values, dtype=torch.float64, device=conv.device) for values in (mean, std))
    rows = (conv * (256 / 255 / std_).view(1, 3, 1, 1)).permute(0, 2, 3, 1).flatten(1)
    bias = -conv.sum((2, 3)) @ (mean_ / std_)
    return nn.functional.pad(rows, (0, -rows.shape[1] % 64)).to(torch.float16), bias.float()
