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
from .latent import (
    SPACES as SPACES,
    Found as Found,
    Latent as Latent,
    LatentTask as LatentTask,
    LatentVector as LatentVector,
    default_latent_task as default_latent_task,
    noise_directions as noise_directions,
    shell_step as shell_step,
)
from .schedule import (
    PREDICTS as PREDICTS,
    Schedule as Schedule,
    ScheduleTask as ScheduleTask,
    ScheduleVector as ScheduleVector,
    Way as Way,
    compute_ahead as compute_ahead,
    default_schedule_task as default_schedule_task,
    jump as jump,
    trailing_levels as trailing_levels,
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
