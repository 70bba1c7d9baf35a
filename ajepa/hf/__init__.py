"""Our encoders in the transformers library; importing this registers them.

    import ajepa.hf
    from transformers import AutoFeatureExtractor, AutoModel

    model = AutoModel.from_pretrained("exported")           # a folder of `ajepa export --transformers`
    extractor = AutoFeatureExtractor.from_pretrained("exported")

Such a folder also has the code that it needs, so that `trust_remote_code=True` loads it where ajepa is not
installed. Classifiers for `pipeline("audio-classification")` belong here too, as a second model class.
"""

from transformers import AutoConfig, AutoFeatureExtractor, AutoModel

from .configuration_ajepa import AjepaConfig
from .feature_extraction_ajepa import AjepaFeatureExtractor
from .folder import from_encoder, save_folder, write_code
from .modeling_ajepa import AjepaModel, AjepaOutput

__all__ = [
    "AjepaConfig",
    "AjepaFeatureExtractor",
    "AjepaModel",
    "AjepaOutput",
    "from_encoder",
    "save_folder",
    "write_code",
]

AutoConfig.register(AjepaConfig.model_type, AjepaConfig, exist_ok=True)
AutoModel.register(AjepaConfig, AjepaModel, exist_ok=True)
AutoFeatureExtractor.register(AjepaConfig, AjepaFeatureExtractor, exist_ok=True)
