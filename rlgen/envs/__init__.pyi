from .grid import (
    SemanticChoice as SemanticChoice,
    SemanticGrid as SemanticGrid,
    SemanticGridVector as SemanticGridVector,
    StateValues as StateValues,
    World as World,
    check_action as check_action,
    default_goal as default_goal,
    default_world as default_world,
    move as move,
)
from .support import (
    Addition as Addition,
    NeedOrderedActions as NeedOrderedActions,
    SupportSet as SupportSet,
    SupportTask as SupportTask,
    classes_by_need as classes_by_need,
    default_support_task as default_support_task,
    labelled_additions as labelled_additions,
)
from .tokens import (
    PromptTokens as PromptTokens,
    TokenTask as TokenTask,
    default_token_task as default_token_task,
    shown_images as shown_images,
)
