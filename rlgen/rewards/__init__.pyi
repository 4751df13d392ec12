from .preference import (
    PRECISIONS as PRECISIONS,
    Answer as Answer,
    AnswerLog as AnswerLog,
    Lens as Lens,
    PreferenceReward as PreferenceReward,
    RewardModel as RewardModel,
    logistic as logistic,
    next_pair as next_pair,
    next_thumb as next_thumb,
    principal as principal,
    rows_of as rows_of,
    sigmoid as sigmoid,
    textwise as textwise,
)
from .semantic import (
    REWARDS as REWARDS,
    Clip as Clip,
    MultiSemantic as MultiSemantic,
    PartialSemantic as PartialSemantic,
    Reward as Reward,
    WeightedSum as WeightedSum,
    agree as agree,
    scene_axis as scene_axis,
    weighted_sum as weighted_sum,
)
from .shaping import (
    REWARD_NAMES as REWARD_NAMES,
    Shaped as Shaped,
    make_reward as make_reward,
)
from .similarity import (
    Aim as Aim,
    Similarity as Similarity,
)
