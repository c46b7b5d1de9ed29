"""A measure's values and the policy -> its histogram, with the threshold that decides by it."""

from typing import Literal

import pyarrow as pa

from image_curation.policy import Policy
from image_curation.report.data import Histogram

HISTOGRAM_MEASURES = ("aesthetic", "nsfw", "short_side", "aspect_ratio", "sharpness", "exposure", "contrast")


def measure_histogram(policy: Policy, name: str, values: pa.ChunkedArray, note: str | None) -> Histogram:
    """The histogram of one of HISTOGRAM_MEASURES; `note` is said beside it, such as why all scores are null."""
    label, threshold, keep_side, unit = _shown(policy)[name]
    return Histogram(name, label, values.cast(pa.float64()).to_numpy(), threshold, keep_side, unit, note)


def _shown(policy: Policy) -> dict[str, tuple[str, float | None, Literal["above", "below"], str]]:
    """By measure: label, threshold, the side that is kept, unit."""
    image = policy.image
    return {
        "aesthetic": ("Aesthetic score", policy.aesthetic.min, "above", ""),
        "nsfw": ("NSFW score", policy.nsfw.max, "below", ""),
        "short_side": ("Shorter side", image.min_short_side, "above", "px"),
        "aspect_ratio": ("Aspect ratio", image.max_aspect_ratio, "below", ""),
        "sharpness": ("Sharpness", image.min_sharpness, "above", ""),
        "exposure": ("Mean luminance", image.min_exposure, "above", ""),
        "contrast": ("Contrast", image.min_contrast, "above", ""),
    }
