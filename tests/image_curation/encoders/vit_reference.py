"""What `vit_kernels` computes, in plain torch: to test the kernels on a GPU, and what is built of them without one."""

import math

import torch
from torch.nn import functional

COLUMNS = 256
HEAD = 64
QUERY_SCALE = HEAD**-0.5 * math.log2(math.e)
_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def to_patches(images, patches, patch):
    n, side = images.shape[:2]
    grid = side // patch
    rows = images.view(n, grid, patch, grid, patch, 3).permute(0, 1, 3, 2, 4, 5).reshape(n * grid * grid, -1)
    patches.zero_()
    patches[:, : rows.shape[1]] = rows.float() / 256


def embed(patches, class_token, positions, norm, out):
    tokens, width = positions.shape
    images = patches.view(-1, tokens - 1, width).float() + positions[1:]
    class_tokens = (class_token + positions[0]).expand(len(images), 1, width)
    out.copy_(_layer_norm(torch.cat([images, class_tokens], 1).flatten(0, 1), norm))


def layer_norm(x, bias, norm, out, scales=None, add=None):
    total = x.float()
    if add is not None:
        total = total + add.float()
        x.copy_(total)
    _store(_layer_norm(total + bias, norm), out, scales)


def quantized_activation(x, activation, out, scales):
    _store(_activated(x.float(), activation), out, scales)


def attention(qkv, tokens, out):
    n, width = len(out) // tokens, out.shape[1]
    queries, keys, values = (
        part.reshape(n, tokens, width // HEAD, HEAD).transpose(1, 2).float() for part in qkv.split(width, dim=1)
    )
    mixed = functional.scaled_dot_product_attention(queries, keys, values, scale=math.log(2))
    out.copy_(mixed.transpose(1, 2).reshape(n * tokens, width))


def class_attention(queries, kv, tokens, out):
    n, width = out.shape
    keys, values = (
        part.reshape(n, tokens, width // HEAD, HEAD).transpose(1, 2).float()
        for part in kv[:, : 2 * width].split(width, 1)
    )
    query = queries[:, :width].reshape(n, 1, width // HEAD, HEAD).transpose(1, 2).float()
    out.copy_(functional.scaled_dot_product_attention(query, keys, values, scale=math.log(2)).reshape(n, width))


def linear_activation(x, weight, bias, activation, out):
    out.copy_(_activated(functional.linear(x.float(), weight.float(), bias.float()), activation))


def _layer_norm(x, norm):
    return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _activated(x, activation):
    return x * torch.sigmoid(1.702 * x) if activation == "quick_gelu" else functional.gelu(x)


def _store(rows, out, scales):
    if scales is not None:
        scales.copy_(rows.abs().amax(1).clamp(min=1e-12) / _LARGEST)
        rows = rows / scales[:, None]
    out.copy_(rows)
