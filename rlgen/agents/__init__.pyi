from .base import (
    Step as Step,
    episode_seed as episode_seed,
    learner_arrays as learner_arrays,
    random_state as random_state,
    restore_learner as restore_learner,
    set_random_state as set_random_state,
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
from .gradient import (
    DiffusionGradient as DiffusionGradient,
    climb as climb,
    neighbours as neighbours,
    slopes as slopes,
)
from .planning import (
    Comparison as Comparison,
    DynaQ as DynaQ,
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
    clipped_objective as clipped_objective,
    draw as draw,
    entropy as entropy,
    gae as gae,
    log_probability as log_probability,
    network as network,
    ratio as ratio,
    value_loss as value_loss,
)
from .rollout import (
    encoder as encoder,
)
from .softq import (
    VARIANTS as VARIANTS,
    SoftQ as SoftQ,
    SoftQSettings as SoftQSettings,
    following as following,
    polyak as polyak,
    soft_q_loss as soft_q_loss,
    standardise as standardise,
    v2_targets as v2_targets,
    values as values,
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
)
from .token_search import (
    EvolvedTokens as EvolvedTokens,
    RandomTokens as RandomTokens,
    modifier_texts as modifier_texts,
)
