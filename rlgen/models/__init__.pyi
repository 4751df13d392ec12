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
    jitter as jitter,
    judge as judge,
    load_model as load_model,
    prediction_entropy as prediction_entropy,
    save_model as save_model,
)
from .evaluators import (
    FACTS as FACTS,
    UNSEEN as UNSEEN,
    Judge as Judge,
    device as device,
    facts as facts,
    load_judge as load_judge,
    load_judges as load_judges,
    right as right,
    seen as seen,
    unit as unit,
)
from .folders import (
    LIBRARIES as LIBRARIES,
    PICKLED as PICKLED,
    PICKLES as PICKLES,
    WEIGHTS as WEIGHTS,
    check_folder as check_folder,
    fast_in_bfloat16 as fast_in_bfloat16,
    fingerprint as fingerprint,
    transformers_folder as transformers_folder,
)
from .generator import (
    NEGATIVE as NEGATIVE,
    PRESETS as PRESETS,
    RLDF as RLDF,
    SCHEDULERS as SCHEDULERS,
    Cached as Cached,
    Generator as Generator,
    locate as locate,
    swap_scheduler as swap_scheduler,
)
from .perception import (
    BATCH as BATCH,
    CONTEXTS as CONTEXTS,
    MAX_STATES as MAX_STATES,
    TABLES as TABLES,
    Perception as Perception,
    ensemble as ensemble,
    marginals as marginals,
    softmax as softmax,
)
from .prompt_policy import (
    PromptPolicy as PromptPolicy,
    Sample as Sample,
)
from .served import (
    MAX_BYTES as MAX_BYTES,
    OPENAI as OPENAI,
    RemoteGenerator as RemoteGenerator,
    download as download,
    server_address as server_address,
)
