"""What an epoch holds: the combinations of DALI's `pad_last_batch` and `LastBatchPolicy` that keep their word.

| `pad_last_batch` | policy | an epoch of all shards together |
|---|---|---|
| true | PARTIAL | every sample exactly once; the last batch is short, and can be empty where shards are uneven |
| true | DROP | no sample twice; what fills no batch is left out, other samples in each epoch if they are shuffled |
| true | FILL | every sample at least once; the last batch repeats samples until it is full |
| false | any | refused: see `check_epochs` |

With DROP and FILL all shards have equally many batches, as DistributedDataParallel needs. With PARTIAL they need not.
"""

from math import ceil
from typing import Literal, get_args

from image_curation.errors import ConfigError

Policy = Literal["partial", "drop", "fill"]


def check_epochs(pad_last_batch: bool, policy: str) -> Policy:
    """The policy, if what it promises holds.

    Raises:
        ConfigError: the policy is not known, or the combination loses and repeats samples without a word.
    """
    for known in get_args(Policy):
        if policy == known and pad_last_batch:
            return known  # type: ignore[no-any-return]
    if policy not in get_args(Policy):
        raise ConfigError(f"last_batch_policy={policy!r} should be one of {', '.join(get_args(Policy))}.")
    raise ConfigError(
        f"pad_last_batch=false with last_batch_policy={policy!r} is refused: DALI's reader then fills the last batch "
        "with the first samples of the next epoch, so that epochs drift: after one to three of them some samples are "
        "missing, others come twice, and no error says so. Use pad_last_batch=true; with 'partial' every sample comes "
        "exactly once, with 'drop' none comes twice, with 'fill' none is missing."
    )


def batches_of(samples: int, shards: int, batch_size: int, policy: Policy) -> int:
    """Batches that each shard gives in an epoch; of PARTIAL the most that one gives."""
    if policy == "drop":
        return samples // shards // batch_size
    return ceil(ceil(samples / shards) / batch_size)
