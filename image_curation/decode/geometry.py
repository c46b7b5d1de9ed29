"""An image's size -> where CLIP's crop lies in it, exactly as torchvision's transforms put it.

CLIP was trained with torchvision's `Resize(size, BICUBIC)` and `CenterCrop(size)`: the long side is truncated, not
rounded, and a crop offset that ends in a half goes to the even pixel. The obvious recipe (resize to the rounded size,
crop in the middle) is off by 2.8 grey levels on average.
"""


def resized_side(full: int, shorter: int, size: int) -> int:
    """What a side of `full` pixels becomes where the shorter one becomes `size`."""
    return full * size // shorter


def crop_start(resized: int, size: int) -> int:
    """The first of the `size` pixels in the middle of `resized`."""
    return round((resized - size) / 2)  # Python, as torchvision, rounds a half to the even number


def crop_region(width: int, height: int, size: int) -> tuple[float, float, float, float]:
    """The part of an image that CLIP's crop shows: (top, left, bottom, right) in pixels of the image, half-open.

    The region is a square up to truncation: its sides become `size` pixels.
    """
    shorter = min(width, height)
    left, right = _span(width, shorter, size)
    top, bottom = _span(height, shorter, size)
    return top, left, bottom, right


def _span(full: int, shorter: int, size: int) -> tuple[float, float]:
    resized = resized_side(full, shorter, size)
    start = crop_start(resized, size)
    return start * full / resized, (start + size) * full / resized
