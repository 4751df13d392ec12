from .base import (
    BaseAgent as BaseAgent,
    Step as Step,
    StepAgent as StepAgent,
    episode_seed as episode_seed,
    learner_arrays as learner_arrays,
    random_state as random_state,
    restore_learner as restore_learner,
    set_random_state as set_random_state,
    torch_device as torch_device,
)
from .blackbox import (
    BlackBox as BlackBox,
    CoordinateBandit as CoordinateBandit,
    Enumeration as Enumeration,
    Evolution as Evolution,
    RandomSearch as RandomSearch,
    best_sums as best_sums,
    label_posterior as label_posterior,
    one_hot as one_hot,
)
from .goal_posterior import (
    NOISE_PRIOR as NOISE_PRIOR,
    PosteriorSearch as PosteriorSearch,
    goal_log_posterior as goal_log_posterior,
    weight_prior as weight_prior,
)
from .gradient import (
    DiffusionGradient as DiffusionGradient,
    climb as climb,
    neighbours as neighbours,
    slopes as slopes,
)
from .planning import (
    DynaQ as DynaQ,
    OptimalityGap as OptimalityGap,
    against_optimum as against_optimum,
    expected_steps as expected_steps,
    greedy_policy as greedy_policy,
    policy_value as policy_value,
    value_iteration as value_iteration,
)
from .ppo import (
    PPO as PPO,
    Batch as Batch,
    PPOSettings as PPOSettings,
    PPOUpdate as PPOUpdate,
    clipped_objective as clipped_objective,
    gae as gae,
    log_probability as log_probability,
    mlp as mlp,
    policy_entropy as policy_entropy,
    probability_ratio as probability_ratio,
    sample_actions as sample_actions,
    value_loss as value_loss,
)
from .rollout import (
    EnvsInTurn as EnvsInTurn,
    SpaceCodec as SpaceCodec,
    observation_encoder as observation_encoder,
    rollout_envs as rollout_envs,
)
from .softq import (
    MAX_CANDIDATES as MAX_CANDIDATES,
    VARIANTS as VARIANTS,
    PromptAgent as PromptAgent,
    SoftQ as SoftQ,
    SoftQSettings as SoftQSettings,
    SoftQUpdate as SoftQUpdate,
    next_values as next_values,
    polyak_update as polyak_update,
    soft_q_loss as soft_q_loss,
    soft_values as soft_values,
    standardise as standardise,
    v2_targets as v2_targets,
)
from .tabular import (
    QLearning as QLearning,
    RandomAgent as RandomAgent,
    Sarsa as Sarsa,
    Schedule as Schedule,
    TableIndex as TableIndex,
    TabularAgent as TabularAgent,
    constant as constant,
    epsilon_greedy as epsilon_greedy,
    exponential as exponential,
    linear as linear,
    q_learning_error as q_learning_error,
    robbins_monro as robbins_monro,
    sarsa_error as sarsa_error,
    schedule_value as schedule_value,
)
from .token_search import (
    EvolvedTokens as EvolvedTokens,
    RandomTokens as RandomTokens,
    modifier_texts as modifier_texts,
)
