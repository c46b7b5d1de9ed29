"""Raw image-text tar shards in, a training set out."""

from importlib.metadata import version

__version__ = version("image-curation")
