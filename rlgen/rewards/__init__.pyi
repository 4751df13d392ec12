from .images import (
    IMAGE_REWARDS as IMAGE_REWARDS,
    MEASURES as MEASURES,
    Alignment as Alignment,
    Compressibility as Compressibility,
    Discriminator as Discriminator,
    Diversity as Diversity,
    ImageReward as ImageReward,
    Novelty as Novelty,
    Sharpness as Sharpness,
    Sparse as Sparse,
    Standardised as Standardised,
    pairwise_distances as pairwise_distances,
)
from .landscape import (
    DIRECTIONS as DIRECTIONS,
    OpenGenerator as OpenGenerator,
    images_along as images_along,
    reward_landscape as reward_landscape,
)
from .preference import (
    PRECISIONS as PRECISIONS,
    Answer as Answer,
    AnswerLog as AnswerLog,
    FeatureMap as FeatureMap,
    PreferenceReward as PreferenceReward,
    RewardModel as RewardModel,
    logistic as logistic,
    next_pair as next_pair,
    next_thumb as next_thumb,
    pca_features as pca_features,
    rows_of as rows_of,
    text_aligned_features as text_aligned_features,
)
from .semantic import (
    REWARDS as REWARDS,
    Clip as Clip,
    MultiSemantic as MultiSemantic,
    PartialSemantic as PartialSemantic,
    PerceptReward as PerceptReward,
    RewardSum as RewardSum,
    WeightedSum as WeightedSum,
    agree as agree,
    name_of as name_of,
    reward_terms as reward_terms,
    scene_axis as scene_axis,
    weighted_sum as weighted_sum,
)
from .shaping import (
    GOAL_FREE_NAMES as GOAL_FREE_NAMES,
    REWARD_NAMES as REWARD_NAMES,
    Shaped as Shaped,
    import_reward as import_reward,
    make_reward as make_reward,
    shaping_reward as shaping_reward,
)
from .similarity import (
    Similarity as Similarity,
    SimilarityTarget as SimilarityTarget,
)
