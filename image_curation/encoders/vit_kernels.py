# ruff: noqa: ANN001, ANN202
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernels for what cuBLAS does not do in one pass over memory: the rest of a vision transformer's forward pass.

The kernels themselves, below the functions that start them, carry no types: Triton reads annotations as its own.

All activations are row-major matrices with a row a token. In each image the class token is the last row: so the patches
start on a whole tile. Sums are fp32.
"""

import math

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

COLUMNS = 256
"""What the output columns of `linear_activation` have to be a multiple of."""
HEAD = 64
"""Channels of an attention head: those of every CLIP up to L/14."""
QUERY_SCALE = HEAD**-0.5 * math.log2(math.e)
"""What queries have to be multiplied by beforehand: attention's own scale, and that of powers of two for those of e."""
_FP8_MAX = 448.0  # of e4m3
# Tile sizes, stages and warps were the fastest of 16 (products) and 19 (attention) tried on an H200.
_PRODUCT_TILE = (128, COLUMNS, 64)
_ATTENTION_TILE = (64, 64)


def to_patches(images: torch.Tensor, patches: torch.Tensor, patch: int) -> None:
    """uint8 [n, s, s, 3] -> fp16 [n * grid * grid, k]: a patch a row, in the order row, column, channel, over 256.

    k is at least patch * patch * 3; what is more is zero. The values are exact, so the model's mean and standard
    deviation can go into its weights.
    """
    side = images.shape[1]
    grid = side // patch
    values, width = patch * patch * 3, patches.shape[1]
    _patches[(len(patches),)](
        images, patches, side, grid, patch, values, width, triton.next_power_of_2(width), num_warps=4
    )


def embed(
    patches: torch.Tensor,
    class_token: torch.Tensor,
    positions: torch.Tensor,
    norm: torch.nn.LayerNorm,
    out: torch.Tensor,
) -> None:
    """Patches [n * p, w], with their positions [p + 1, w] (the class token's first) and the class token, normalised.

    `out` is bf16 [n * (p + 1), w].
    """
    width = out.shape[1]
    _embed[(len(out),)](
        patches, class_token, positions, norm.weight, norm.bias, out, len(positions), width, norm.eps,
        triton.next_power_of_2(width),
    )  # fmt: skip


def layer_norm(
    x: torch.Tensor,
    bias: torch.Tensor,
    norm: torch.nn.LayerNorm,
    out: torch.Tensor,
    scales: torch.Tensor | None = None,
    add: torch.Tensor | None = None,
) -> None:
    """out = LayerNorm(x + bias), rows of bf16 [m, w].

    `bias` [w] stands for what should have been added to every row of `x` so far. `add` bf16 [m, w] is added to `x`
    in place first. With `scales` fp32 [m] the result is fp8 (e4m3), each row divided by its scale.
    """
    width = x.shape[1]
    _layer_norm[(len(x),)](
        x, x if add is None else add, bias, norm.weight, norm.bias, out, out if scales is None else scales,
        x.stride(0), width, norm.eps, add is not None, scales is not None, _FP8_MAX, triton.next_power_of_2(width),
        num_warps=1,
    )  # fmt: skip


def quantized_activation(x: torch.Tensor, activation: str, out: torch.Tensor, scales: torch.Tensor) -> None:
    """out = activation(x) of rows bf16 [m, w] as fp8 (e4m3), each divided by its scale, fp32 [m]."""
    width = x.shape[1]
    _quantized_activation[(len(x),)](
        x, out, scales, width, activation, _FP8_MAX, triton.next_power_of_2(width), num_warps=4
    )


def attention(qkv: torch.Tensor, tokens: int, out: torch.Tensor) -> None:
    """Softmax attention of all queries, which come scaled by `QUERY_SCALE`.

    `qkv` is bf16 [n * tokens, 3 * w] as one product makes it, `out` bf16 [n * tokens, w].
    """
    width = out.shape[1]
    heads, images = width // HEAD, len(out) // tokens
    rows, columns = _ATTENTION_TILE
    whole = (tokens - 1) % rows == 0 and (tokens - 1) % columns == 0
    _patch_attention[(triton.cdiv(tokens - 1, rows), images * heads)](
        qkv, out, tokens, heads, rows, columns, HEAD, whole, num_warps=4, num_stages=3, maxnreg=128
    )
    class_attention(qkv[tokens - 1 :: tokens], qkv[:, width:], tokens, out[tokens - 1 :: tokens])


def class_attention(queries: torch.Tensor, kv: torch.Tensor, tokens: int, out: torch.Tensor) -> None:
    """Attention of one query an image: `queries` bf16 [n, w or more], `kv` [n * tokens, 2 * w], `out` [n, w]."""
    width = out.shape[1]
    heads = width // HEAD
    _class_attention[(len(out) * heads,)](
        queries, kv, out, tokens, heads, queries.stride(0), kv.stride(0), out.stride(0), 8, HEAD, num_warps=1,
    )  # fmt: skip


def linear_activation(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: str, out: torch.Tensor
) -> None:
    """out = activation(x @ weight.T + bias), bf16 [m, k] and [n, k] -> [m, n]; n a multiple of `COLUMNS`.

    `activation` is "quick_gelu" or "gelu".

    A twentieth slower than cuBLAS's product, but the activation costs no pass over `out`, the largest matrix of all.
    """
    (m, k), n = x.shape, len(weight)
    rows, columns, depth = _PRODUCT_TILE
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    _linear_activation[(processors,)](
        TensorDescriptor.from_tensor(x, [rows, depth]),
        TensorDescriptor.from_tensor(weight, [columns, depth]),
        bias,
        TensorDescriptor.from_tensor(out, [rows, columns // 2]),
        m, n, k, rows, columns, depth, 16, activation, processors, num_stages=4, num_warps=8,
    )  # fmt: skip


@triton.jit
def _activated(x, ACTIVATION: tl.constexpr):
    """QuickGELU, x * sigmoid(1.702 x), or GELU by the error function."""
    if ACTIVATION == "quick_gelu":
        return x * (0.5 + 0.5 * _tanh(0.851 * x))
    else:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _tanh(x):
    """Two at a time in fp16, within 2^-10.9: a bf16 result shows nothing of it, and exponentials would cost 4 times."""
    return tl.inline_asm_elementwise(
        """{
        .reg .b32 pair;
        .reg .b16 low, high;
        cvt.rn.f16x2.f32 pair, $3, $2;
        tanh.approx.f16x2 pair, pair;
        mov.b32 {low, high}, pair;
        cvt.f32.f16 $0, low;
        cvt.f32.f16 $1, high;
        }""",
        "=f,=f,f,f",
        [x],
        dtype=tl.float32,
        is_pure=True,
        pack=2,
    )


@triton.jit
def _normalised(x, inside, width, eps, weight, bias, columns):
    mean = tl.sum(x, 0) / width
    centred = tl.where(inside, x - mean, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, 0) / width + eps)
    gain = tl.load(weight + columns, mask=inside, other=0.0)
    return centred * scale * gain + tl.load(bias + columns, mask=inside, other=0.0)


@triton.jit
def _patches(
    images, out, side, grid,
    PATCH: tl.constexpr, VALUES: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    image, place = row // (grid * grid), row % (grid * grid)
    column = tl.arange(0, BLOCK)
    line, offset = column // (PATCH * 3), column % (PATCH * 3)
    top, left = place // grid * PATCH, place % grid * PATCH
    source = images + image.to(tl.int64) * side * side * 3 + (top + line) * side * 3 + left * 3 + offset
    value = tl.load(source, mask=column < VALUES, other=0).to(tl.float32) / 256
    tl.store(out + row.to(tl.int64) * WIDTH + column, value.to(out.dtype.element_ty), mask=column < WIDTH)


@triton.jit
def _embed(
    patches, class_token, positions, weight, bias, out, tokens,
    width, eps, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    image, token = row // tokens, row % tokens
    column = tl.arange(0, BLOCK)
    inside = column < width
    if token == tokens - 1:
        x = tl.load(class_token + column, mask=inside, other=0.0)
        x += tl.load(positions + column, mask=inside, other=0.0)
    else:
        patch = (image * (tokens - 1) + token).to(tl.int64)
        x = tl.load(patches + patch * width + column, mask=inside, other=0.0).to(tl.float32)
        x += tl.load(positions + (token + 1) * width + column, mask=inside, other=0.0)
    y = _normalised(x, inside, width, eps, weight, bias, column)
    tl.store(out + row.to(tl.int64) * width + column, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _layer_norm(
    x, add, bias, weight, shift, out, scales, stride, width, eps,
    ADD: tl.constexpr, QUANTIZE: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    value = tl.load(x + row * stride + column, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(add + row * width + column, mask=inside, other=0.0).to(tl.float32)
        tl.store(x + row * stride + column, value.to(x.dtype.element_ty), mask=inside)
    value += tl.load(bias + column, mask=inside, other=0.0)
    y = _normalised(value, inside, width, eps, weight, shift, column)
    if QUANTIZE:
        y = _scaled(y, scales + row, LARGEST)
    tl.store(out + row * width + column, y.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _quantized_activation(x, out, scales, width, ACTIVATION: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    y = _activated(tl.load(x + row * width + column, mask=inside, other=0.0).to(tl.float32), ACTIVATION)
    tl.store(out + row * width + column, _scaled(y, scales + row, LARGEST).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _scaled(row, scale, LARGEST: tl.constexpr):
    """A row divided so that its largest entry becomes `LARGEST`; by how much goes to `scale`."""
    peak = tl.maximum(tl.max(tl.abs(row), 0), 1e-12)
    tl.store(scale, peak / LARGEST)
    return row * (LARGEST / peak)


@triton.jit
def _patch_attention(
    qkv, out, tokens, heads, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, WHOLE: tl.constexpr
):
    """A running softmax as in FlashAttention (Dao et al., 2022, algorithm 1), started by the class token's key."""
    image, head = (tl.program_id(1) // heads).to(tl.int64), tl.program_id(1) % heads
    width, patches = heads * CHANNELS, tokens - 1
    stride = 3 * width
    first = qkv + image * tokens * stride + head * CHANNELS
    query = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    key, channel = tl.arange(0, COLUMNS), tl.arange(0, CHANNELS)
    keys = first + width + key[:, None] * stride + channel[None, :]
    values = keys + width
    if WHOLE:
        q = tl.load(first + query[:, None] * stride + channel[None, :])
    else:
        q = tl.load(first + query[:, None] * stride + channel[None, :], mask=query[:, None] < patches, other=0.0)
    last = first + width + patches * stride + channel
    top = tl.sum(q.to(tl.float32) * tl.load(last).to(tl.float32)[None, :], 1)
    total = tl.full([ROWS], 1.0, tl.float32)
    sums = tl.zeros([ROWS, CHANNELS], tl.float32) + tl.load(last + width).to(tl.float32)[None, :]
    for start in tl.range(0, patches, COLUMNS):
        if WHOLE:
            k = tl.load(keys + start * stride)
        else:
            k = tl.load(keys + start * stride, mask=start + key[:, None] < patches, other=0.0)
        scores = tl.dot(q, tl.trans(k))
        if not WHOLE:
            scores = tl.where(start + key[None, :] < patches, scores, float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 1))
        weights = tl.exp2(scores - highest[:, None])
        fade = tl.exp2(top - highest)
        total = total * fade + tl.sum(weights, 1)
        sums = sums * fade[:, None]
        if WHOLE:
            v = tl.load(values + start * stride)
        else:
            v = tl.load(values + start * stride, mask=start + key[:, None] < patches, other=0.0)
        sums = tl.dot(weights.to(v.dtype), v, sums)
        top = highest
    result = (sums / total[:, None]).to(out.dtype.element_ty)
    place = out + (image * tokens + query[:, None]) * width + head * CHANNELS + channel[None, :]
    if WHOLE:
        tl.store(place, result)
    else:
        tl.store(place, result, mask=query[:, None] < patches)


@triton.jit
def _class_attention(
    queries, kv, out, tokens, heads, query_stride, kv_stride, out_stride,
    COLUMNS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    image, head = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    key, channel = tl.arange(0, COLUMNS), tl.arange(0, CHANNELS)
    q = tl.load(queries + image * query_stride + head * CHANNELS + channel).to(tl.float32)
    keys = kv + image * tokens * kv_stride + head * CHANNELS + key[:, None] * kv_stride + channel[None, :]
    values = keys + heads * CHANNELS
    top, total = -float("inf"), 0.0
    sums = tl.zeros([CHANNELS], tl.float32)
    for start in range(0, tokens, COLUMNS):
        inside = start + key < tokens
        k = tl.load(keys + start * kv_stride, mask=inside[:, None], other=0.0).to(tl.float32)
        scores = tl.where(inside, tl.sum(k * q[None, :], 1), float("-inf"))
        highest = tl.maximum(top, tl.max(scores, 0))
        weights = tl.exp2(scores - highest)
        fade = tl.exp2(top - highest)
        total = total * fade + tl.sum(weights, 0)
        v = tl.load(values + start * kv_stride, mask=inside[:, None], other=0.0).to(tl.float32)
        sums = sums * fade + tl.sum(weights[:, None] * v, 0)
        top = highest
    tl.store(out + image * out_stride + head * CHANNELS + channel, (sums / total).to(out.dtype.element_ty))


@triton.jit
def _linear_activation(
    x, weight, bias, out, m, n, k,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr, ACTIVATION: tl.constexpr,
    PROCESSORS: tl.constexpr,
):  # fmt: skip
    """One program a multiprocessor, each taking tile after tile; `GROUP` rows of tiles share their columns in L2."""
    tiles_down, tiles_across = tl.cdiv(m, ROWS), tl.cdiv(n, COLUMNS)
    half: tl.constexpr = COLUMNS // 2
    for tile in tl.range(tl.program_id(0), tiles_down * tiles_across, PROCESSORS, flatten=True):
        group = tile // (GROUP * tiles_across)
        height = min(tiles_down - group * GROUP, GROUP)
        within = tile % (GROUP * tiles_across)
        row = (group * GROUP + within % height) * ROWS
        column = within // height * COLUMNS
        sums = tl.zeros([ROWS, COLUMNS], tl.float32)
        for depth in range(0, k, DEPTH):
            sums = tl.dot(x.load([row, depth]), weight.load([column, depth]).T, sums)
        # In halves: the whole tile would not fit beside the operands of the next.
        left, right = tl.split(tl.permute(tl.reshape(sums, [ROWS, 2, half]), (0, 2, 1)))
        left += tl.load(bias + column + tl.arange(0, half)).to(tl.float32)[None, :]
        right += tl.load(bias + column + half + tl.arange(0, half)).to(tl.float32)[None, :]
        out.store([row, column], _activated(left, ACTIVATION).to(out.dtype))
        out.store([row, column + half], _activated(right, ACTIVATION).to(out.dtype))
