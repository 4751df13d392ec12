from .grid import (
    Landscape as Landscape,
    SemanticChoice as SemanticChoice,
    SemanticGrid as SemanticGrid,
    SemanticGridVector as SemanticGridVector,
    World as World,
    default_goal as default_goal,
    default_world as default_world,
    move as move,
)
from .support import (
    Addition as Addition,
    ByNeed as ByNeed,
    SupportSet as SupportSet,
    SupportTask as SupportTask,
    by_need as by_need,
    support_set as support_set,
)
from .tokens import (
    PromptTokens as PromptTokens,
    TokenTask as TokenTask,
    too_long as too_long,
)
