"""Score heads: small models that turn the vectors of one encoder into one number each.

HEADS is the registry: (kind, vector space) -> the published files, of which the first is the one to use. A head works
on vectors of the encoder that it was trained on and on no others, hence the vector space in the key.
"""

from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from image_curation.errors import NoHead
from image_curation.heads.files import HeadFile, cache_folder, read_head_file

HeadKind = Literal["aesthetic", "nsfw"]

CLIP_L_14 = "openai-clip-vit-l-14"
CLIP_B_32 = "openai-clip-vit-b-32"

_AESTHETIC_V2 = (
    "christophschuhmann/improved-aesthetic-predictor",
    "6934dd81792f086e613a121dbce43082cb8be85e",
    "Apache-2.0",
)
_AESTHETIC_V1 = ("LAION-AI/aesthetic-predictor", "6d122adad522ab246644d9dc1c6d7a3810ee255f", "MIT")
_NSFW = ("LAION-AI/CLIP-based-NSFW-Detector", "d6bb8fe31fd4aecbfed7dfb62df4fe5858bfc014", "MIT")

HEADS: dict[tuple[HeadKind, str], tuple[HeadFile, ...]] = {
    ("aesthetic", CLIP_L_14): (
        HeadFile(
            "laion-aesthetic-v2-l-14",
            "sac+logos+ava1-l14-linearMSE.pth",
            "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
            3714759,
            *_AESTHETIC_V2,
        ),
        HeadFile(
            "laion-aesthetic-v1-l-14",
            "sa_0_4_vit_l_14_linear.pth",
            "2cd4e60f4f24ae3bcd57b847b13c1f3ba27edc28cc1a7f9ce74ee9f421243cba",
            4071,
            *_AESTHETIC_V1,
        ),
    ),
    ("aesthetic", CLIP_B_32): (
        HeadFile(
            "laion-aesthetic-v1-b-32",
            "sa_0_4_vit_b_32_linear.pth",
            "c7b14cead230694acc7b9447974d3cad78003c72da032e402a303b6c2429e85f",
            3047,
            *_AESTHETIC_V1,
        ),
    ),
    ("nsfw", CLIP_L_14): (
        HeadFile(
            "laion-nsfw-l-14",
            "clip_autokeras_binary_nsfw.zip",
            "905520bb0336accc73ee282c605d926aef90cf14248889d44b9cee50eef71f8a",
            1094585,
            *_NSFW,
        ),
    ),
    ("nsfw", CLIP_B_32): (
        HeadFile(
            "laion-nsfw-b-32",
            "clip_autokeras_nsfw_b32.zip",
            "78715ab9d64485167e8c9ade3b8e6761a17a16c24d114bd47431ac1dab46462b",
            231831,
            *_NSFW,
        ),
    ),
}


class Head(Protocol):
    """A loaded head. `weights_sha256` is the file's, for the birth certificate of the scores."""

    @property
    def name(self) -> str: ...

    @property
    def vector_space(self) -> str: ...

    @property
    def weights_sha256(self) -> str: ...

    def score(self, vectors: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        """Unit vectors [n, d] -> scores [n]; NaN for a row that is not finite; ConfigError when d is another."""
        ...


def load_head(kind: HeadKind, vector_space: str, path: str | None = None) -> Head:
    """Load the head of this kind for vectors of this space, from a file whose checksum is a registered one.

    Args:
        vector_space: an encoder profile's, like "openai-clip-vit-l-14".
        path: the file, or a folder to look in before $IMAGE_CURATION_HEADS and ~/.cache/image-curation/heads.

    Raises:
        NoHead: there is no such head, or its file is in none of the folders.
        WeightsError: `path` does not exist, or the file is not a registered one.
    """
    files = registered(kind, vector_space)
    file, data = read_head_file(files, path, f"{kind} head for {vector_space}")
    if kind == "aesthetic":
        from image_curation.heads.aesthetic import read_aesthetic_head

        return read_aesthetic_head(data, file, vector_space)
    from image_curation.heads.nsfw import read_nsfw_head

    return read_nsfw_head(data, file, vector_space)


def fetch_head(kind: HeadKind, vector_space: str, folder: str | None = None, url: str | None = None) -> str:
    """Download a head's file, pinned by commit and checksum, and return where it lies.

    Args:
        folder: where to put it; None for ~/.cache/image-curation/heads.
        url: a mirror of the file.

    Raises:
        NoHead: there is no such head.
        WeightsError: the file cannot be fetched, or is not the pinned one.
    """
    from image_curation.heads.fetch import fetch_file

    file = registered(kind, vector_space)[0]
    return str(fetch_file(file, Path(folder) if folder else cache_folder(), url))


def registered(kind: HeadKind, vector_space: str) -> tuple[HeadFile, ...]:
    """The files of a head, the one to use first.

    Raises:
        NoHead: there is no such head; the text names those that exist.
    """
    files = HEADS.get((kind, vector_space))
    if files is None:
        spaces = sorted(space for some_kind, space in HEADS if some_kind == kind)
        vectors = f"vectors of {vector_space}" if vector_space else "vectors that belong to no known vector space"
        raise NoHead(f"There is no {kind} head for {vectors}; {kind} heads exist for {', '.join(spaces) or 'nothing'}.")
    return files
