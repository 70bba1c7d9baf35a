"""Our encoders in the transformers library; importing this registers them.

    import ajepa.hf
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained("exported")           # a folder of `ajepa export --transformers`
    extractor = AutoFeatureExtractor.from_pretrained("exported")

Such a folder also has the code that it needs, so that `trust_remote_code=True` loads it where ajepa is not
installed. A classifier's folder works in `pipeline("audio-classification")`.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioClassification

from .configuration_ajepa import AjepaConfig
from .feature_extraction_ajepa import AjepaFeatureExtractor
from .folder import from_classifier, from_encoder, save_folder, write_code
from .modeling_ajepa import AjepaForAudioClassification, AjepaModel, AjepaOutput

__all__ = [
    "AjepaConfig",
    "AjepaFeatureExtractor",
    "AjepaForAudioClassification",
    "AjepaModel",
    "AjepaOutput",
    "from_classifier",
    "from_encoder",
    "save_folder",
    "write_code",
]

AutoConfig.register(AjepaConfig.model_type, AjepaConfig, exist_ok=True)
AutoModel.register(AjepaConfig, AjepaModel, exist_ok=True)
AutoModelForAudioClassification.register(AjepaConfig, AjepaForAudioClassification, exist_ok=True)
AutoFeatureExtractor.register(AjepaConfig, AjepaFeatureExtractor, exist_ok=True)
