"""The whole error tree: every failure that the library names, and what each one costs.

CurationError
├── ConfigError       settings, policy or a name are wrong          nothing starts
├── StorageError      a place cannot be read or written             the step stops
├── ShardError        a tar cannot be read at all                   its partition
├── ImageError        an image cannot be used (has a status code)   its row
├── WeightsError      model weights are missing or not as pinned    the step stops
├── NoHead            no score head fits the encoder                the score is null, with this reason
├── ArtifactError     an artifact is missing, foreign or damaged    the step stops
├── ClusterError      the Dask cluster cannot be started or used    the step stops
├── ReleaseError      a release does not hold what it should        the release is not published
└── TrainingError     a dataset cannot be trained on, or a loop     the training stops
                      cannot go on from its checkpoint
"""


class CurationError(Exception):
    """Base of all errors that this project raises on purpose. The text says what, where, and what to do next."""


class ConfigError(CurationError):
    """Settings, a policy file or a name given by the user are wrong."""


class StorageError(CurationError):
    """A place in storage cannot be listed, read or written."""


class ShardError(CurationError):
    """A tar shard cannot be read at all; other shards are not touched by it."""


class ImageError(CurationError):
    """An image cannot be used. `code` is the status that its row gets, the text is the row's `error`."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class WeightsError(CurationError):
    """Model weights are missing, cannot be fetched, or are not the pinned ones."""


class NoHead(CurationError):
    """There is no score head for this encoder's vectors, or its file is not at hand."""


class ArtifactError(CurationError):
    """An artifact is missing, was made by something else, or is damaged."""


class ClusterError(CurationError):
    """The Dask cluster cannot be started, reached or used."""


class ReleaseError(CurationError):
    """A release does not hold what its selection says."""


class TrainingError(CurationError):
    """A dataset cannot be trained on as it is, or a training cannot go on from its checkpoint."""
