"""The key `gpus` of the configuration: how many GPUs a job of each network stage holds."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from anyshot.larvseg import system as larvseg
from anyshot.options import Options
from anyshot.pop import system as pop
from anyshot.raml import system as raml
from anyshot.retab import system as retab
from anyshot.simformer import system as simformer

Count = Annotated[int | None, Field(ge=0)]

STAGES = {
    "retab": retab.STAGES, "raml": raml.STAGES, "pop": pop.STAGES, "simformer": simformer.STAGES,
    "larvseg": larvseg.STAGES,
}  # fmt: skip

# A training divides its batches over all of its GPUs. These stages work image by image on one.
ON_ONE = (
    "retab_cam", "retab_boundary_map", "retab_affinity_map", "retab_predict",
    "raml_novel_bank", "raml_open_world", "raml_anomaly",
    "pop_features", "pop_views", "pop_predict",
    "simformer_pseudo_label", "simformer_predict",
    "larvseg_predict", "larvseg_compactness", "larvseg_segment_21k",
)  # fmt: skip
# Of those, the ones that `shards` does not cut: one job with all images per split (bank, views: per draw).
# For more GPUs at once the others have more jobs.
IN_ONE_JOB = (
    "raml_novel_bank", "raml_anomaly", "pop_features", "pop_views", "larvseg_compactness",
    "larvseg_segment_21k",
)  # fmt: skip


class Gpus(Options):
    """A whole number, or a group of `default` and numbers for single stages, named like their rules.

    A training uses all of its GPUs, any other network stage one: `gpus: 4` gives 4 to each training and 1 to
    each of the others.
    """

    default: int = Field(1, ge=0, description="GPUs of a training that is not named here; 0 keeps to the CPU")

    retab_classifier: Count = None
    retab_boundary: Count = None
    retab_affinity: Count = None
    retab_segmentation: Count = None
    raml_closed_set: Count = None
    raml_meta_channel: Count = None
    raml_metric: Count = None
    pop_base: Count = None
    pop_novel_update: Count = None
    simformer_joint: Count = None
    simformer_retrain: Count = None
    larvseg_baseline: Count = None
    larvseg_attentive: Count = None

    retab_cam: Count = None
    retab_boundary_map: Count = None
    retab_affinity_map: Count = None
    retab_predict: Count = None
    raml_novel_bank: Count = None
    raml_open_world: Count = None
    raml_anomaly: Count = None
    pop_features: Count = None
    pop_views: Count = None
    pop_predict: Count = None
    simformer_pseudo_label: Count = None
    simformer_predict: Count = None
    larvseg_predict: Count = None
    larvseg_compactness: Count = None
    larvseg_segment_21k: Count = None

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            return {"default": value}
        stages = {f"{system}_{name}" for system, names in STAGES.items() for name in names}
        idle = sorted((stages | {"data_prepare", "report"}) - set(cls.model_fields))
        wrong = [key for key in idle if isinstance(value, dict) and key in value]
        if wrong:
            networks = ", ".join(sorted(set(cls.model_fields) - {"default"}))
            raise ValueError(f"{', '.join(wrong)} runs no network and cannot hold a GPU; allowed: {networks}")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        group = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [{"type": "integer", "minimum": 0}, group]}

    @field_validator(*ON_ONE)
    @classmethod
    def _one(cls, count: int | None, info: ValidationInfo) -> int | None:
        if count is not None and count > 1:
            whole = "it is one job with all images, whatever `shards` is"
            more = whole if info.field_name in IN_ONE_JOB else "more `shards` make more jobs of it"
            raise ValueError(f"this stage works on one GPU, expected 0 or 1; {more}")
        return count

    def of(self, rule: str) -> int:
        """GPUs of a job of this rule. Raises KeyError for a rule that runs no network."""
        given: int | None = self.model_dump(exclude={"default"})[rule]
        if given is not None:
            return given
        return min(self.default, 1) if rule in ON_ONE else self.default
