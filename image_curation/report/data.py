"""What a report is made of: plain values, so that the page knows nothing of where they come from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from image_curation.duplicates.preview import Cut, Thresholds

Thumbs = npt.NDArray[np.uint8]
"""RGB, [n, height, width, 3], or [height, width, 3] for one."""

Size = tuple[int, int]
"""Width and height in pixels of an image whose thumbnail is squashed; their ratio undoes it. Not for centre crops."""


class LedgerLike(Protocol):
    """What became of the samples: read = kept + dropped (by reason) + failed (by status)."""

    @property
    def read(self) -> int: ...
    @property
    def kept(self) -> int: ...
    @property
    def dropped(self) -> Mapping[str, int]: ...
    @property
    def failed(self) -> Mapping[str, int]: ...


class ShardCounts(NamedTuple):
    """The ledger of one shard, without the reasons."""

    shard: str
    read: int
    kept: int
    dropped: int
    failed: int


class Failure(NamedTuple):
    """A sample that could not be used: its status and the sentence for people."""

    shard: str
    key: str
    status: str
    error: str | None


@dataclass(frozen=True)
class Histogram:
    """Values of one measure, float [n]; NaN where a sample has none.

    A value is kept when it is at or beyond `threshold` on `keep_side`; without a threshold nothing is decided by it.
    `note` is said beside the picture, such as the reason why scores are null.
    """

    name: str
    label: str
    values: npt.NDArray[np.floating]
    threshold: float | None = None
    keep_side: Literal["above", "below"] = "above"
    unit: str = ""
    note: str | None = None


@dataclass(frozen=True)
class Sheet:
    """Thumbnails of samples with one fate. `total`: how many there are, if `thumbs` are only some of them."""

    title: str
    caption: str
    thumbs: Thumbs
    labels: Sequence[str]
    total: int | None = None
    sizes: Sequence[Size] | None = None


class GroupMember(NamedTuple):
    """A duplicate: its thumbnail [height, width, 3], cosine to the representative, and which test found it."""

    thumb: Thumbs
    label: str
    similarity: float | None
    how: str
    size: Size | None = None


@dataclass(frozen=True)
class GroupView:
    """A duplicate group: the one that stays, and those that go because of it (`total`, if not all are in `members`)."""

    thumb: Thumbs
    label: str
    members: Sequence[GroupMember]
    size: Size | None = None
    total: int | None = None


@dataclass(frozen=True)
class PairSheet:
    """Pairs of images next to the duplicate threshold. `total`: how many there are, if these are only some.

    Attributes:
        thumbs: uint8 [n, 2, height, width, 3].
        labels: n pairs of names.
        similarities: n cosines.
    """

    title: str
    thumbs: Thumbs
    labels: Sequence[tuple[str, str]]
    similarities: Sequence[float]
    total: int


@dataclass(frozen=True)
class ThresholdView:
    """What other duplicate thresholds than the chosen ones would do, and the pairs on both sides of the cosine."""

    chosen: Thresholds
    by_cosine: Sequence[Cut]
    by_distance: Sequence[Cut]
    above: PairSheet
    below: PairSheet


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows. The totals say how many there are where a sequence holds only some of them."""

    title: str
    created_from: Mapping[str, str]
    ledger: LedgerLike
    per_shard: Sequence[ShardCounts] = ()
    histograms: Sequence[Histogram] = ()
    sheets: Sequence[Sheet] = ()
    duplicate_groups: Sequence[GroupView] = ()
    thresholds: ThresholdView | None = None
    failures: Sequence[Failure] = ()
    warnings: Sequence[str] = ()
    total_groups: int | None = None
    total_failures: int | None = None
