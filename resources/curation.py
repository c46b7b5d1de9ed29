"""The `curation` resource: source, storage root, encoder and policy, by default from IMAGE_CURATION_* variables."""

import dagster as dg
from pydantic import Field

from image_curation.config import Settings, load_settings
from image_curation.project import Project


class Curation(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Which data is curated, where artifacts go, and how.

    A field that is not set here is taken from the environment, e.g. IMAGE_CURATION_SOURCE;
    `image_curation.config.Settings` lists them all. Credentials are never configured here: storage takes them from its
    own environment variables.
    """

    source: str | None = Field(default=None, description="folder or URL with tar shards")
    root: str | None = Field(default=None, description="folder or URL where artifacts, release and report go")
    policy: str | None = Field(default=None, description="policy YAML")
    encoder: str | None = Field(default=None, description="a profile, open_clip:MODEL/WEIGHTS, timm:NAME or onnx:PATH")
    weights: str | None = Field(default=None, description="local weights file of the encoder")
    heads: str | None = Field(default=None, description="folder with the LAION score heads' files")

    def settings(self) -> Settings:
        """The settings: what is set here, and the environment for the rest.

        Raises:
            ConfigError: neither says where the source or the root is, or a value is wrong.
        """
        return load_settings(**{name: getattr(self, name) for name in type(self).model_fields})

    def project(self) -> Project:
        """The project that the settings describe, with its policy read anew."""
        return Project.load(self.settings())
