"""`known_matches`: a shard's hashes and vectors, and the known sets -> what each sample matches in each set.

No policy enters here: matches go down to the search floor, and whether one counts is decided in `selection`.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from image_curation.artifacts import Certificate, read_artifact, read_table
from image_curation.duplicates.edges import Kind
from image_curation.errors import ArtifactError, ConfigError
from image_curation.known.matches import Closest, closest_matches
from image_curation.known.sets import Images, KnownSet, open_set
from image_curation.project import Project
from image_curation.steps.outcome import Made, Outcome, reuse_or_make

CODE_VERSION = "1"

_MATCH = pa.struct(
    [
        ("set", pa.string()),
        ("how", pa.string()),  # exact | perceptual | semantic
        ("key", pa.string()),  # of the image in the set
        ("similarity", pa.float64()),  # on the scale of `how`, as in duplicate_groups
    ]
)
_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("matches", pa.list_(_MATCH), nullable=False),  # by set, and of each the strongest kind first
    ]
)


def build_known_matches(project: Project, shard: str) -> Outcome:
    """Look for each sample of a shard in every known set.

    Raises:
        ArtifactError: the shard has no embeddings yet.
        ConfigError: a set is not there, holds what it should not, or was not embedded as the shard was.
    """
    sets = _known_sets(project)
    certificate = _certificate(project, shard, sets)

    def make() -> Made:
        embeddings = read_artifact(project.embeddings_url(shard))
        ours = _images(project, shard)
        for one in sets:
            _check_encoder(project, one, ours.vectors.shape[1], embeddings.facts["weights_sha256"])
        distance = project.settings.duplicates.max_phash_distance
        found = {one.name: closest_matches(ours, one.blocks(), project.similarity_floor, distance) for one in sets}
        rows: list[list[dict[str, Any]]] = [_matches(found, i) for i in range(len(ours.names))]
        names = read_table(embeddings.url, ["shard", "key"])
        table = pa.table([*names.columns, pa.array(rows, pa.list_(_MATCH))], schema=_SCHEMA)
        matched = {name: sum(any(m["set"] == name for m in row) for row in rows) for name in found}
        return table, {"matched": matched}

    return reuse_or_make(project.known_matches_url(shard), certificate, make)


def read_known_matches(project: Project, shard: str) -> pa.Table:
    """A shard's matches with the known sets as they are now.

    Raises:
        ArtifactError: they were not looked for yet, or in other sets, or in these as they were before.
        ConfigError: a set is not there.
    """
    artifact = read_artifact(project.known_matches_url(shard))
    if artifact.certificate != _certificate(project, shard, _known_sets(project)):
        names = ", ".join(name for name, _ in project.settings.known_sets)
        raise ArtifactError(
            f"shard {shard}: its matches are with other sets than {names} as they are now. "
            "Materialize known_matches again, or run `image-curation curate`."
        )
    return read_table(artifact.url)


def check_known_sets(project: Project) -> None:
    """Look at the known sets before anything starts.

    Raises:
        ConfigError: one is not there, has no vectors, or vectors of another length than the encoder makes.
    """
    for one in _known_sets(project):
        _check_encoder(project, one, project.profile.dim or one.dim)


def _known_sets(project: Project) -> list[KnownSet]:
    return [open_set(name, url, project.encoder_folder) for name, url in project.settings.known_sets]


def _certificate(project: Project, shard: str, sets: list[KnownSet]) -> Certificate:
    distance = project.settings.duplicates.max_phash_distance
    return Certificate(
        artifact="known_matches",
        code_version=CODE_VERSION,
        settings={"similarity_floor": project.similarity_floor, "max_phash_distance": distance},
        inputs={
            "shard_index": read_artifact(project.index_url(shard)).content,
            "embeddings": read_artifact(project.embeddings_url(shard)).content,
            **{f"set {one.name}": one.content for one in sets},
        },
    )


def _images(project: Project, shard: str) -> Images:
    """The shard's images, in the order of its index; one that failed matches nothing."""
    table = read_table(project.embeddings_url(shard), ["shard", "key", "status", "phash", "contrast", "vector"])
    hashes = read_table(project.index_url(shard), ["sha256"])["sha256"]
    seen = pc.if_else(pc.equal(table["status"], "ok"), hashes, pa.scalar(None, pa.string()))
    return Images.of(table.append_column("sha256", seen), f"shard {shard}")


def _check_encoder(project: Project, one: KnownSet, dim: int, weights: str | None = None) -> None:
    """Vectors can be compared if they are of one length and of the same weights, where these are known."""
    name = project.profile.name
    if one.dim != dim:
        raise ConfigError(
            f"known set {one.name} has vectors of {one.dim} numbers, and encoder {name} makes {dim}: they cannot be "
            f"compared. Embed the set with {name}, or curate with the set's own encoder."
        )
    if weights and (others := one.weights - {weights}):
        raise ConfigError(
            f"known set {one.name} was embedded with weights {min(others)[:12]}, and here encoder {name} has weights "
            f"{weights[:12]}: their vectors cannot be compared. Embed the set with the same weights."
        )


def _matches(found: dict[str, dict[Kind, Closest]], row: int) -> list[dict[str, Any]]:
    return [
        {"set": name, "how": kind.name.lower(), "key": best.names[row], "similarity": best.similarity[row]}
        for name, kinds in found.items()
        for kind, best in kinds.items()
        if best.names[row] is not None
    ]
