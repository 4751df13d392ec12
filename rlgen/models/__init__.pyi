from .captioner import (
    Captioner as Captioner,
    Word as Word,
    class_dictionary as class_dictionary,
    distinctive as distinctive,
)
from .classifier import (
    BACKBONES as BACKBONES,
    Evaluation as Evaluation,
    Network as Network,
    Probe as Probe,
    Recipe as Recipe,
    backbone as backbone,
    evaluate_predictions as evaluate_predictions,
    jitter as jitter,
    load_classifier as load_classifier,
    prediction_entropy as prediction_entropy,
    save_classifier as save_classifier,
)
from .evaluators import (
    FACTS as FACTS,
    UNSEEN as UNSEEN,
    SceneClassifier as SceneClassifier,
    facts as facts,
    load_evaluator as load_evaluator,
    load_evaluators as load_evaluators,
    right as right,
    seen as seen,
    training_device as training_device,
    unit as unit,
)
from .folders import (
    LIBRARIES as LIBRARIES,
    PATTERNS as PATTERNS,
    PICKLE_SUFFIXES as PICKLE_SUFFIXES,
    PICKLED as PICKLED,
    WEIGHTS as WEIGHTS,
    check_folder as check_folder,
    check_weights as check_weights,
    download as download,
    fast_in_bfloat16 as fast_in_bfloat16,
    fingerprint as fingerprint,
    foreign_model as foreign_model,
    open_clip_weights as open_clip_weights,
    pick_device as pick_device,
    pick_dtype as pick_dtype,
    transformers_folder as transformers_folder,
)
from .generator import (
    GENERATOR_NAMES as GENERATOR_NAMES,
    GONE as GONE,
    LARGE as LARGE,
    NEGATIVE as NEGATIVE,
    PRESETS as PRESETS,
    RLDF_PRESET as RLDF_PRESET,
    SCHEDULERS as SCHEDULERS,
    Cached as Cached,
    Generator as Generator,
    check_options as check_options,
    locate as locate,
    new_scheduler as new_scheduler,
)
from .loading import (
    OF_THE_SERVER as OF_THE_SERVER,
    SERVED as SERVED,
    ModelSettings as ModelSettings,
    load_generator as load_generator,
    load_own_generator as load_own_generator,
    load_perception as load_perception,
)
from .perception import (
    BATCH as BATCH,
    CONTEXTS as CONTEXTS,
    MAX_STATES as MAX_STATES,
    TABLES as TABLES,
    Perception as Perception,
    ensemble as ensemble,
    marginals as marginals,
)
from .pipelines import (
    ALONE as ALONE,
    DENOISERS as DENOISERS,
    EMBEDDED as EMBEDDED,
    TOKENIZERS as TOKENIZERS,
    UNTESTED as UNTESTED,
    PipelineCall as PipelineCall,
    pipeline_class as pipeline_class,
    pipeline_table as pipeline_table,
    refusal as refusal,
    text_to_image_classes as text_to_image_classes,
)
from .prompt_policy import (
    LANGUAGE_MODEL_NAMES as LANGUAGE_MODEL_NAMES,
    PromptPolicy as PromptPolicy,
    Sample as Sample,
)
from .served import (
    MAX_BYTES as MAX_BYTES,
    OPENAI as OPENAI,
    RemoteGenerator as RemoteGenerator,
    download_image as download_image,
    server_address as server_address,
)
