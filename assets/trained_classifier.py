"""The asset `trained_classifier`: a model trained on the release. Optional: its group is in no job of ours."""

import dagster as dg
from pydantic import Field

from assets.curated_shards import curated_shards
from assets.metadata import counts
from assets.shard_step import OWNERS
from image_curation.steps.trained_classifier import CODE_VERSION, build_trained_classifier
from image_curation.training.config import TrainConfig
from resources.curation import Curation

_SHARDS_SHOWN = 50


class ClassifierConfig(dg.Config):
    """What to train. `settings` takes any other field of `image_curation.training.config.TrainConfig`."""

    label_field: str = Field(default="cls", description="cls, or a field of the JSON sidecar: plant.genus")
    model: str = Field(default="resnet50", description="any name of timm")
    epochs: int = Field(default=90, ge=1)
    val_fraction: float = Field(default=0.05, ge=0, lt=1, description="share held out to validate with")
    settings: dict[str, str] = Field(default={}, description="name -> value of others, such as batch_size or lr")

    def train_config(self) -> TrainConfig:
        """The configuration as the library takes it; values are parsed there."""
        own = self.model_dump(exclude={"settings"})
        return TrainConfig.model_validate(own | self.settings)


@dg.asset(
    deps=[curated_shards],
    code_version=CODE_VERSION,
    group_name="training",
    kinds={"pytorch", "nvidia"},
    owners=OWNERS,
    pool="gpu",
)
def trained_classifier(
    context: dg.AssetExecutionContext, config: ClassifierConfig, curation: Curation
) -> dg.MaterializeResult[None]:
    """An image classifier trained on the release by DALI pipelines: safetensors that name the release by its hash."""
    trained = build_trained_classifier(curation.project(), config.train_config(), lambda event: context.log.info(event))
    card = trained.card
    shown = dict(list(trained.raw_shards.items())[:_SHARDS_SHOWN])
    return dg.MaterializeResult(
        metadata={
            "model": dg.MetadataValue.path(trained.folder),
            "release_manifest": dg.MetadataValue.path(trained.manifest_url),
            "release_manifest_sha256": card["source"]["manifest_sha256"],
            "selection_hash": card["source"]["selection_hash"],
            "raw_shards": counts(shown, "raw shard"),
            "raw_shards_in_all": len(trained.raw_shards),
            "images": card["images"],
            "left_out": counts(card["left_out"], "reason"),
            "classes": len(card["classes"]),
            "steps": card["steps"],
            "accuracy": dg.MetadataValue.json(card["validation"]),
            "reused": trained.reused,
        },
        data_version=dg.DataVersion(trained.sha256),
    )
