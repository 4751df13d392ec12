from .agents.ppo import (
    PPO as PPO,
)
from .agents.softq import (
    SoftQ as SoftQ,
)
from .agents.tabular import (
    QLearning as QLearning,
)
from .clone.run import (
    clone_dataset as clone_dataset,
)
from .envs.grid import (
    SemanticGrid as SemanticGrid,
    World as World,
)
from .envs.support import (
    SupportSet as SupportSet,
)
from .envs.tokens import (
    PromptTokens as PromptTokens,
)
from .experiments.preference import (
    tune_prompt as tune_prompt,
)
from .experiments.rldf import (
    search as search,
)
from .experiments.support_set import (
    learn_support_set as learn_support_set,
)
from .grammar import (
    Grammar as Grammar,
)
from .models.generator import (
    Cached as Cached,
    Generator as Generator,
)
from .models.loading import (
    ModelSettings as ModelSettings,
    load_generator as load_generator,
    load_perception as load_perception,
)
from .models.perception import (
    Perception as Perception,
)
from .models.prompt_policy import (
    PromptPolicy as PromptPolicy,
)
from .rewards.semantic import (
    MultiSemantic as MultiSemantic,
)
from .rewards.shaping import (
    Shaped as Shaped,
    make_reward as make_reward,
)
from .rewards.similarity import (
    Similarity as Similarity,
)
from .scenes import (
    render as render,
)
from .store import (
    Store as Store,
)

__version__: str
