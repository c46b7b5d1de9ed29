"""The ledger: what became of every sample that was read. The sums must agree."""

from collections import Counter

from pydantic import BaseModel, ConfigDict


class Ledger(BaseModel):
    """Counts of samples, of one shard or of many: read, kept, dropped by reason, failed by status.

    `read` is counted from the index and the others from the selection, so that `adds_up` compares two sources.
    """

    model_config = ConfigDict(frozen=True)

    read: int = 0
    kept: int = 0
    dropped: dict[str, int] = {}
    failed: dict[str, int] = {}

    @property
    def adds_up(self) -> bool:
        """Whether each sample that was read has exactly one fate."""
        return self.read == self.kept + sum(self.dropped.values()) + sum(self.failed.values())

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(
            read=self.read + other.read,
            kept=self.kept + other.kept,
            dropped=most_frequent_first(Counter(self.dropped) + Counter(other.dropped)),
            failed=most_frequent_first(Counter(self.failed) + Counter(other.failed)),
        )

    def sentence(self) -> str:
        """The ledger in one line."""
        sign = "=" if self.adds_up else "≠"
        return (
            f"{self.read:,} read {sign} {self.kept:,} kept + {sum(self.dropped.values()):,} dropped"
            f" + {sum(self.failed.values()):,} failed"
        )


def most_frequent_first(counts: Counter[str]) -> dict[str, int]:
    """Counts by falling number, then by name."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
