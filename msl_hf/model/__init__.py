"""The model as every pushed repository carries it: configuration, heads, network."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_msl import TASK, MSLConfig
from .modeling_msl import MSLForImageClassification
from .pipeline_msl import MultiLabelImageClassificationPipeline

AutoConfig.register(MSLConfig.model_type, MSLConfig)
AutoModel.register(MSLConfig, MSLForImageClassification)
AutoModelForImageClassification.register(MSLConfig, MSLForImageClassification)
PIPELINE_REGISTRY.register_pipeline(
    TASK, MultiLabelImageClassificationPipeline, pt_model=AutoModelForImageClassification, type="image"
)

# From here on save_pretrained copies the files of this folder into the repository, which then loads without msl_hf.
MSLConfig.register_for_auto_class()
MSLForImageClassification.register_for_auto_class("AutoModelForImageClassification")

__all__ = ["MSLConfig", "MSLForImageClassification", "MultiLabelImageClassificationPipeline"]
