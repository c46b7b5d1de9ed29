"""Where everything of one curation lies, and the settings and policy that made it."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property

from image_curation import storage
from image_curation.config import Settings, load_settings
from image_curation.encoders import Profile, profile
from image_curation.errors import ConfigError
from image_curation.policy import Policy, load_policy
from image_curation.storage import join

REMEMBERED = "image-curation.json"


@dataclass(frozen=True)
class Project:
    """One source, one root, one encoder, one policy. A plain value: it travels to workers as it is.

    Below the root lie `shard_index/SHARD.parquet`, `embeddings/ENCODER/SHARD.parquet`, the scores and duplicate groups
    likewise, `selection/SHARD.parquet`, `release/` and `report/report.html`.
    """

    settings: Settings
    policy: Policy = field(default_factory=Policy)

    @classmethod
    def load(cls, settings: Settings) -> "Project":
        """Read the policy that the settings name, and check that encoder and policy fit.

        Raises:
            ConfigError: the encoder is not known, the policy is wrong, its thresholds lie below what is searched, the
                root lies in the source, or a known set has no role.
        """
        project = cls(settings, load_policy(settings.policy))
        project._check_floors()
        project._check_places()
        project._check_known_sets()
        return project

    @classmethod
    def recall(cls, root: str) -> "Project":
        """The project that was last curated into `root`.

        Raises:
            ConfigError: nothing was curated there.
        """
        url = join(root, REMEMBERED)
        if not storage.exists(url):
            raise ConfigError(f"nothing has been curated into {root} yet: `image-curation curate SOURCE {root}` does.")
        return cls.load(load_settings(**json.loads(storage.read_bytes(url)) | {"root": root}))

    def remember(self) -> None:
        """Note the settings below the root, so that `recall` needs nothing else. No secret is among them."""
        storage.write_bytes(self._url(REMEMBERED), self.settings.model_dump_json(indent=2).encode() + b"\n")

    def selected_shards(self) -> list[str]:
        """All shards that have a selection, by name.

        Raises:
            ConfigError: none has.
        """
        folder = self._url("selection")
        names = [file.name for file in storage.list_files(folder)] if storage.exists(folder) else []
        shards = [name.removesuffix(".parquet") for name in names if name.endswith(".parquet")]
        if not shards:
            raise ConfigError(f"there is no selection below {self.settings.root}: run `image-curation curate` first.")
        return shards

    @cached_property
    def profile(self) -> Profile:
        """The encoder's profile."""
        return profile(self.settings.encoder)

    @property
    def min_similarity(self) -> float:
        """The cosine above which two images are duplicates: the policy's, or what the profile recommends."""
        chosen = self.policy.duplicates.min_similarity
        return self.profile.duplicate_similarity if chosen in ("auto", None) else float(chosen)

    @property
    def warn_below(self) -> float | None:
        """The cosine to its representative below which a dropped duplicate is worth a warning; None: no such."""
        chosen = self.policy.duplicates.warn_below
        return max(0.0, round(self.min_similarity - 0.05, 6)) if chosen == "auto" else chosen

    @property
    def known_similarity(self) -> float | None:
        """The cosine above which an image matches one of a known set; None: vectors are not used for that."""
        chosen = self.policy.known.min_similarity
        return self.min_similarity if chosen == "auto" else chosen

    @property
    def similarity_floor(self) -> float:
        """The cosine down to which pairs are searched and stored, whatever the policy."""
        return round(self.profile.duplicate_similarity - self.settings.duplicates.similarity_margin, 6)

    def index_url(self, shard: str) -> str:
        """The shard's index."""
        return self._url("shard_index", f"{shard}.parquet")

    def embeddings_url(self, shard: str) -> str:
        """The shard's vectors and what was measured while decoding."""
        return self._url("embeddings", self.encoder_folder, f"{shard}.parquet")

    def scores_url(self, score: str, shard: str) -> str:
        """The shard's scores of one kind (`aesthetic`, `nsfw`)."""
        return self._url(f"{score}_scores", self.encoder_folder, f"{shard}.parquet")

    def known_matches_url(self, shard: str) -> str:
        """What the shard's samples match in the known sets; there is none without sets."""
        return self._url("known_matches", self.encoder_folder, f"{shard}.parquet")

    @property
    def members_url(self) -> str:
        """All samples that have a duplicate."""
        return self._url("duplicate_groups", self.encoder_folder, "members.parquet")

    @property
    def edges_url(self) -> str:
        """The pairs found, as row numbers of the members."""
        return self._url("duplicate_groups", self.encoder_folder, "edges.parquet")

    @property
    def cells_url(self) -> str:
        """The generation of cells by which duplicates are searched, where there are too many to compare all."""
        return self._url("duplicate_groups", self.encoder_folder, "cells.parquet")

    @property
    def blocks_url(self) -> str:
        """What a search has to know of the samples that it compares newcomers with."""
        return self._url("duplicate_groups", self.encoder_folder, "blocks")

    def block_url(self, name: str) -> str:
        """A part of it: that of some shards."""
        return join(self.blocks_url, f"{name}.parquet")

    @property
    def strips_url(self) -> str:
        """Parts of a search that is not finished."""
        return self._url("duplicate_groups", self.encoder_folder, "strips")

    def strip_url(self, name: str) -> str:
        """One of them."""
        return join(self.strips_url, f"{name}.parquet")

    def selection_url(self, shard: str) -> str:
        """The decision for each sample of the shard."""
        return self._url("selection", f"{shard}.parquet")

    @property
    def release_url(self) -> str:
        """The folder of the release."""
        return self._url("release")

    @property
    def report_url(self) -> str:
        """The report page."""
        return self._url("report", "report.html")

    @property
    def encoder_folder(self) -> str:
        """The encoder's name as a folder, so that vectors of different encoders never meet."""
        return re.sub(r"[^A-Za-z0-9._-]+", "_", self.profile.name)

    def _url(self, *parts: str) -> str:
        return join(self.settings.root, *parts)

    def _check_floors(self) -> None:
        if self.similarity_floor <= 0:
            margin, highest = self.settings.duplicates.similarity_margin, self.profile.duplicate_similarity
            raise ConfigError(
                f"duplicates.similarity_margin={margin} should be < {highest}, from which encoder {self.profile.name} "
                "takes images for duplicates. Lower IMAGE_CURATION_DUPLICATES__SIMILARITY_MARGIN."
            )
        if self.min_similarity < self.similarity_floor:
            raise ConfigError(
                f"duplicates.min_similarity={self.min_similarity} should be >= {self.similarity_floor}, down to which "
                f"pairs are searched with encoder {self.profile.name}. Raise it in the policy, or raise "
                "IMAGE_CURATION_DUPLICATES__SIMILARITY_MARGIN to search further down."
            )
        wanted, searched = self.policy.duplicates.max_phash_distance, self.settings.duplicates.max_phash_distance
        if wanted is not None and wanted > searched:
            raise ConfigError(
                f"duplicates.max_phash_distance={wanted} should be <= {searched}, up to which pairs are searched. "
                "Lower it in the policy, or raise IMAGE_CURATION_DUPLICATES__MAX_PHASH_DISTANCE."
            )

    def _check_places(self) -> None:
        source, root = self.settings.source.rstrip("/"), self.settings.root.rstrip("/")
        if f"{root}/".startswith(f"{source}/"):
            raise ConfigError(
                f"the root {root} lies in the source {source}: the tars of the release would be curated again. "
                "Choose a root beside the source."
            )

    def _check_known_sets(self) -> None:
        rules, sets = self.policy.known, dict(self.settings.known_sets)
        roles = (*rules.evaluation, *rules.reference)
        for name in roles:
            if name not in sets:
                raise ConfigError(
                    f"the policy names the known set {name!r}, but no setting says where it is: give "
                    f"`--known {name}=PLACE`, or IMAGE_CURATION_KNOWN_SETS as JSON, name and place. "
                    f"Sets: {', '.join(sorted(sets)) or 'none'}."
                )
            if roles.count(name) > 1:
                raise ConfigError(f"the policy names the known set {name!r} twice: it should have one role.")
        for name, place in sets.items():
            if name not in roles:
                raise ConfigError(
                    f"the known set {name!r} has no role: name it in the policy under known.evaluation (what matches "
                    "must not get into training) or known.reference (what matches is there already)."
                )
            if f"{place.rstrip('/')}/".startswith(f"{self.settings.root.rstrip('/')}/"):
                raise ConfigError(
                    f"the known set {name!r} lies in the root {self.settings.root}: every image would match itself. "
                    "Name another curation, or a copy of an older release."
                )
        if sets:
            self._check_known_floors()

    def _check_known_floors(self) -> None:
        lowest, wanted = self.known_similarity, self.policy.known.max_phash_distance
        if lowest is not None and lowest < self.similarity_floor:
            raise ConfigError(
                f"known.min_similarity={lowest} should be >= {self.similarity_floor}, down to which matches are "
                "searched. Raise it in the policy, or raise IMAGE_CURATION_DUPLICATES__SIMILARITY_MARGIN."
            )
        if wanted is not None and wanted > self.settings.duplicates.max_phash_distance:
            raise ConfigError(
                f"known.max_phash_distance={wanted} should be <= {self.settings.duplicates.max_phash_distance}, up to "
                "which matches are searched. Lower it in the policy, or raise "
                "IMAGE_CURATION_DUPLICATES__MAX_PHASH_DISTANCE."
            )
