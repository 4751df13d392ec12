"""Planning: exact values against independent calculations, tables against the optimum, Dyna-Q on known worlds,
exact resumption, and what is refused.
"""
import copy
import math
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete
from hypothesis import given, settings, strategies as st
from refusals import refused
from scipy.optimize import linprog

from rlgen.agents.planning import DynaQ, against_optimum, expected_steps, greedy_policy, policy_value, value_iteration
from rlgen.agents.tabular import QLearning, robbins_monro

def grid(nvec, goal, pay=None, stop=True):
    """Tables of a walk on a grid, one label up or down an axis;
    `pay` (S values) is what entering a state is paid, else -1 a step.
    """
    _n, ahead = math.prod(nvec), []
    for place in np.ndindex(*nvec):
        row = []
        for axis in range(len(nvec)):
            for step in (1, -1):
                there = list(place)
                there[axis] = min(max(there[axis] + step, 0), nvec[axis] - 1)
                row.append(int(np.ravel_multi_index(there, nvec)))
        ahead.append(row)
    ahead = np.array(ahead)
    over = (ahead == np.ravel_multi_index(goal, nvec)) & stop
    return ahead, np.full(ahead.shape, -1.0) if pay is None else np.asarray(pay, float)[ahead], over


def of_gymnasium(name, **options):
    "Tables of a Gymnasium world with a law `P`."
    P = gym.make(name, **options).unwrapped.P
    rows = [[P[s][a][0] for a in sorted(P[s])] for s in sorted(P)]
    column = lambda i, kind: np.array([[outcome[i] for outcome in row] for row in rows], kind)
    return column(1, int), column(2, float), column(3, bool)


class World(gym.Env):
    """A world given by its tables; several rewards on a last axis are drawn by lot;
    starts anywhere but at an end unless told.
    """

    def __init__(self, tables, starts=None, limit=10**9):
        next_states, rewards, over = tables
        self.tables, self.limit = (next_states, np.reshape(rewards, (*next_states.shape, -1)), over), limit
        self.observation_space, self.action_space = (Discrete(n) for n in next_states.shape)
        self.starts = (
            np.setdiff1d(np.arange(len(next_states)), next_states[over]) if starts is None else np.atleast_1d(starts)
        )
        self.seen = set()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.steps = (options["state"] if options else int(self.np_random.choice(self.starts))), 0
        self.seen.add(self.at)
        return self.at, {}

    def step(self, action):
        ahead, rewards, over = (t[self.at, action] for t in self.tables)
        self.at, self.steps = int(ahead), self.steps + 1
        self.seen.add(self.at)
        reward = float(rewards[self.np_random.integers(len(rewards))])
        return self.at, reward, bool(over), self.steps >= self.limit and not over, {}


MAZE = ["       #G", "  #    # ", "S #    # ", "  #      ", "     #   ", "         "]  # Sutton and Barto, Example 8.1


def maze():
    "Tables of the maze, its start, and which states are free."
    cells = np.array([list(row) for row in MAZE])
    ahead, _, _ = grid(cells.shape, (0, 8))
    wall = cells.ravel() == "#"
    ahead = np.where(wall[ahead], np.arange(cells.size)[:, None], ahead)
    goal = cells.ravel()[ahead] == "G"
    return (
        (ahead, goal.astype(float), goal),
        int(np.flatnonzero(cells.ravel() == "S")[0]),
        np.isin(cells.ravel(), (" ", "S")),
    )


def make(Agent, env, **options):
    return Agent(env.observation_space, env.action_space, **options)


def memory(agent):
    arrays, note = agent.state_dict()
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}, note


# ---- value iteration, against two calculations that share nothing with it ----

def by_loops(next_states, rewards, over, discount):
    "Q* by Gauss-Seidel sweeps in plain Python, until nothing changes any more."
    S, A = rewards.shape
    value, change = [0.0] * S, 1.0
    while change > 1e-13:
        change = 0.0
        for s in range(S):
            best = max(
                float(rewards[s, a]) + (0.0 if over[s, a] else discount * value[int(next_states[s, a])])
                for a in range(A)
            )
            change, value[s] = max(change, abs(best - value[s])), best
    return np.array([
        [float(rewards[s, a]) + (0.0 if over[s, a] else discount * value[int(next_states[s, a])]) for a in range(A)]
        for s in range(S)
    ])


def by_linear_program(next_states, rewards, over, discount):
    "Q* from the least values that no action improves on (Puterman 1994, section 6.9)."
    S, A = rewards.shape
    rows, bounds = [], []
    for s in range(S):
        for a in range(A):
            row = np.zeros(S)
            row[s] -= 1
            if not over[s, a]:
                row[next_states[s, a]] += discount
            rows.append(row), bounds.append(-rewards[s, a])
    value = linprog(np.ones(S), A_ub=np.array(rows), b_ub=np.array(bounds), bounds=(None, None), method="highs",
                    options=dict(primal_feasibility_tolerance=1e-10, dual_feasibility_tolerance=1e-10)).x
    return rewards + np.where(over, 0, discount * value[next_states])


GRIDS = {"costs": (grid((3, 4), (2, 3)), 0.9),
         "rewards on the way": (grid((4, 2, 3), (0, 1, 1), np.random.default_rng(1).uniform(-1, 1, 24)), 0.8),
         "without an end": (grid((5, 4), (2, 2), np.random.default_rng(2).normal(size=20), stop=False), 0.95)}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("other", [by_loops, by_linear_program])
def test_value_iteration_agrees_with_independent_calculations(name, other):
    tables, discount = GRIDS[name]
    np.testing.assert_allclose(
        value_iteration(*tables, discount, tolerance=1e-12), other(*tables, discount), atol=1e-9, rtol=0
    )


def test_cliff_walking_by_hand():
    tables = of_gymnasium("CliffWalking-v1")
    assert value_iteration(*tables, 1.0)[36].max() == -13
    for discount in (0.0, 0.5, 0.9, 0.99, 0.999):
        assert (
            value_iteration(*tables, discount)[36].max()
            == pytest.approx(-(1 - discount**13) / (1 - discount), abs=1e-9)
        )


def test_frozen_lake_without_slipping_by_hand():
    tables = of_gymnasium("FrozenLake-v1", is_slippery=False)
    for discount in (0.5, 0.9, 0.99, 1.0):
        q = value_iteration(*tables, discount)
        assert q[0].max() == pytest.approx(discount**5, abs=1e-12)  # six steps, paid at the last
        assert q[[5, 7, 11, 12, 15]].max() == 0


worlds = st.integers(1, 6).flatmap(lambda S: st.integers(1, 3).flatmap(lambda A: st.tuples(
    *(st.lists(values, min_size=S * A, max_size=S * A).map(lambda x, S=S, A=A: np.array(x).reshape(S, A))
      for values in (st.integers(0, S - 1), st.floats(-10, 10, allow_nan=False), st.booleans())))))


@settings(max_examples=100, deadline=None)
@given(worlds, st.sampled_from([0.0, 0.3, 0.9, 0.99]), st.sampled_from([1e-3, 1e-10]))
def test_the_stated_error_is_kept_in_any_world(tables, discount, tolerance):
    assert (
        np.abs(value_iteration(*tables, discount, tolerance) - by_loops(*tables, discount)).max() <= tolerance + 1e-11
    )


@settings(max_examples=100, deadline=None)
@given(worlds, st.sampled_from([0.0, 0.3, 0.9]))
def test_no_policy_beats_the_optimum_and_the_greedy_one_reaches_it(tables, discount):
    v_star = value_iteration(*tables, discount).max(1)
    rng = np.random.default_rng(0)
    for _ in range(3):
        assert (
            policy_value(*tables, discount, rng.integers(tables[1].shape[1], size=len(v_star))) <= v_star + 1e-8
        ).all()
    assert (
        np.abs(policy_value(*tables, discount, greedy_policy(value_iteration(*tables, discount))) - v_star).max() < 1e-6
    )


def test_discount_1_is_decided_and_not_guessed():
    ring = np.array([[1, 0], [0, 1]]), np.array([[1.0, -5.0], [-1.0, -5.0]]), np.array([[False, True], [False, True]])
    # a round earns nothing: best is the walk that ends
    np.testing.assert_allclose(value_iteration(*ring, 1.0), [[-4, -5], [-5, -5]])
    paying = ring[0], np.array([[1.0, -5.0], [-0.5, -5.0]]), ring[2]
    refused(lambda: value_iteration(*paying, 1.0), "cycle", "below 1")
    lost = np.array([[0], [0]]), np.array([[-1.0], [-1.0]]), np.array([[True], [False]])
    np.testing.assert_array_equal(value_iteration(*lost, 1.0), [[-1], [-2]])
    refused(lambda: value_iteration(np.array([[0], [1]]), lost[1], lost[2], 1.0), "state 1 has none")
    assert np.isfinite(value_iteration(*paying, 0.999)).all()


def test_a_long_way_is_exact_in_as_many_sweeps_as_it_has_steps():
    n = 5000
    tables = np.minimum(np.arange(n)[:, None] + 1, n - 1), np.full((n, 1), -1.0), (np.arange(n) == n - 1)[:, None]
    q = value_iteration(*tables, 0.9999)
    assert q[0, 0] == pytest.approx(-(1 - 0.9999**n) / 0.0001, rel=1e-12)
    assert expected_steps(tables[0], tables[2], np.zeros(n, int))[0] == pytest.approx(n)


# ---- policies ----

def test_policy_value_agrees_with_iteration():
    rng = np.random.default_rng(0)
    for tables, discount in GRIDS.values():
        policy = rng.dirichlet(np.ones(tables[1].shape[1]), len(tables[1]))
        value = np.zeros(len(policy))
        for _ in range(2000):
            value = (policy * (tables[1] + np.where(tables[2], 0, discount * value[tables[0]]))).sum(1)
        np.testing.assert_allclose(policy_value(*tables, discount, policy), value, atol=1e-10)
        actions = policy.argmax(1)
        np.testing.assert_allclose(
            policy_value(*tables, discount, actions),
            policy_value(*tables, discount, np.eye(policy.shape[1])[actions]),
            atol=1e-12,
        )


def test_expected_steps_of_the_gamblers_walk():
    n = 9  # places 1 to 9 between two ends: from place i a fair walk takes i (n + 1 - i) steps
    ahead = np.clip(np.arange(n)[:, None] + [1, -1], 0, n - 1)
    over = np.zeros((n, 2), bool)
    over[-1, 0] = over[0, 1] = True
    place = np.arange(1, n + 1)
    np.testing.assert_allclose(expected_steps(ahead, over, np.full((n, 2), 0.5)), place * (n + 1 - place))
    np.testing.assert_allclose(
        policy_value(ahead, np.full((n, 2), -2.0), over, 1.0, np.full((n, 2), 0.5)), -2.0 * place * (n + 1 - place)
    )
    np.testing.assert_allclose(expected_steps(ahead, over, np.zeros(n, int)), n + 1 - place)
    stay = np.where(place < 5, 1, 0)  # left of the middle go left, else right
    np.testing.assert_allclose(expected_steps(ahead, over, stay), np.minimum(place, n + 1 - place))


def test_a_policy_that_may_never_end_takes_infinitely_many_steps():
    ahead, over = np.array([[1, 2], [1, 1], [0, 0]]), np.array([[False, False], [False, False], [True, False]])
    assert expected_steps(ahead, over, np.array([0, 0, 0])).tolist() == [np.inf, np.inf, 1]
    assert expected_steps(ahead, over, np.array([1, 0, 0])).tolist() == [2, np.inf, 1]
    # one way in two is a trap
    assert expected_steps(ahead, over, np.array([[0.5, 0.5], [1, 0], [1, 0]])).tolist() == [np.inf, np.inf, 1]
    refused(
        lambda: policy_value(ahead, np.zeros((3, 2)), over, 1.0, np.array([1, 0, 0])), "state 1", "sure to terminate"
    )


# ---- a table against the optimum ----

def test_the_optimum_itself_is_without_fault():
    for tables, discount in (
        *GRIDS.values(),
        (of_gymnasium("CliffWalking-v1"), 0.9),
        (of_gymnasium("FrozenLake-v1", is_slippery=False), 0.9),
    ):
        q = value_iteration(*tables, discount)
        found = against_optimum(q, tables, discount, visits=np.ones(q.shape))
        counts = ~np.isnan(found.regret)
        assert found.max_error == found.visited_error == 0 == np.abs(found.regret[counts]).max()
        np.testing.assert_array_equal(found.steps, found.optimal_steps)


def test_a_table_of_zeros_by_hand():
    ahead, over = np.array([[1, 0], [2, 0], [3, 1], [3, 3]]), np.array([[0, 0], [0, 0], [1, 0], [1, 1]], bool)
    tables = ahead, np.array([[-1.0, -1.0]] * 3 + [[0.0, 0.0]]), over
    found = against_optimum(np.zeros((4, 2)), tables, 0.5, visits=np.array([[0, 0], [1, 0], [0, 0], [9, 9]]))
    assert found.max_error == pytest.approx(1.875) and found.visited_error == pytest.approx(1.5)
    np.testing.assert_allclose(found.steps[:3], [12, 10, 6])
    np.testing.assert_allclose(found.optimal_steps[:3], [3, 2, 1])
    wander = np.linalg.solve([[0.75, -0.25, 0], [-0.25, 1, -0.25], [0, -0.25, 1]], [-1, -1, -1])
    np.testing.assert_allclose(found.regret[:3], [-1.75, -1.5, -1] - wander)
    assert np.isnan([found.regret[3], found.steps[3], found.optimal_steps[3]]).all()  # nobody decides there
    row = found.summary()
    assert row["arrives"] == row["optimal_arrives"] == 1 and (row["steps"], row["optimal_steps"]) == (10, 2)
    assert (
        row["max_regret"] == pytest.approx(found.regret[:3].max())
        and row["mean_regret"] == pytest.approx(found.regret[:3].mean())
    )
    assert math.isnan(against_optimum(np.zeros((4, 2)), tables, 0.5).visited_error)


def test_a_table_that_goes_round_in_circles():
    tables = grid((1, 4), (0, 3))
    left = np.zeros((4, 4))
    left[:, 3] = 1.0  # always down the second axis
    row = against_optimum(left, tables, 0.5).summary()
    assert row["arrives"] == 0 and row["steps"] == math.inf and row["optimal_steps"] == 2
    assert row["max_regret"] == pytest.approx(2 - 1)  # for ever -1, and the last room is one step away


def test_which_states_count():
    tables = grid((2, 3), (1, 2))
    np.testing.assert_array_equal(np.isnan(against_optimum(np.zeros((6, 4)), tables, 0.9).regret), np.arange(6) == 5)
    endless = grid((2, 3), (1, 2), stop=False)
    assert not np.isnan(against_optimum(np.zeros((6, 4)), endless, 0.9).regret).any()
    only = against_optimum(np.arange(24.0).reshape(6, 4), tables, 0.9, states=np.arange(6) == 2)
    assert (
        (~np.isnan(only.regret)).sum() == 1
        and only.max_error == pytest.approx(np.abs(np.arange(8, 12) - value_iteration(*tables, 0.9)[2]).max())
    )


# ---- Dyna-Q ----

@pytest.mark.parametrize(
    "options", [dict(), dict(planning_steps=1), dict(epsilon=0.0), dict(epsilon=0.0, persistent=True, locality=0.5)]
)
@pytest.mark.parametrize("name", ["costs", "rewards on the way"])
def test_dyna_q_finds_the_optimal_policy_of_a_deterministic_grid(name, options):
    tables, discount = GRIDS[name]
    env = World(tables, limit=50)
    # optimistic: nothing is worth more than 5
    agent = make(DynaQ, env, discount=discount, seed=0, initial_q=6.0, **options).learn(env, 4000)
    found = against_optimum(agent.table, tables, discount, agent.visits)
    assert np.nanmax(found.regret) < 1e-4
    assert found.visited_error < 1e-4 or "epsilon" in options


@pytest.mark.parametrize(
    "name, options, limit", [("CliffWalking-v1", {}, 200), ("FrozenLake-v1", dict(is_slippery=False), 100)]
)
def test_dyna_q_on_the_worlds_of_gymnasium(name, options, limit):
    tables, env = of_gymnasium(name, **options), gym.make(name, max_episode_steps=limit, **options)
    agent = make(DynaQ, env, discount=0.9, initial_q=1.0, epsilon=0.0, seed=0).learn(env, 2000)
    q, start = value_iteration(*tables, 0.9), int(env.reset()[0])
    assert agent.table[start].max() == pytest.approx(q[start].max(), abs=1e-4)
    assert policy_value(*tables, 0.9, greedy_policy(agent.table))[start] == pytest.approx(q[start].max(), abs=1e-9)


def test_dyna_q_on_a_grid_with_vector_observations_and_offsets():
    class Grid(gym.Env):
        observation_space, action_space = MultiDiscrete([3, 4], start=[5, -2]), Discrete(4, start=2)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.at = self.np_random.integers([3, 3])
            return self.at + [5, -2], {}

        def step(self, action):
            axis, down = divmod(int(action) - 2, 2)
            self.at = self.at.copy()
            self.at[axis] = np.clip(self.at[axis] + (-1 if down else 1), 0, (2, 3)[axis])
            goal = bool((self.at == (2, 3)).all())
            return self.at + [5, -2], -1.0, goal, False, {}

    env = Grid()
    agent = make(DynaQ, env, discount=0.9, seed=0).learn(env, 3000)
    np.testing.assert_allclose(agent.table[:11], value_iteration(*grid((3, 4), (2, 3)), 0.9)[:11], atol=1e-4)
    np.testing.assert_array_equal(agent.next_states[:11], grid((3, 4), (2, 3))[0][:11])


def as_known(agent, initial):
    "The world of an agent, in which untried pairs end the episode and pay what they were held to be worth at first."
    untried = agent.next_states < 0
    return (
        np.where(untried, 0, agent.next_states),
        np.where(untried, initial, agent.rewards),
        agent.terminated | untried,
    )


def test_with_an_empty_queue_the_table_solves_the_world_as_far_as_it_is_known():
    tables, start, _ = maze()
    env, threshold = World(tables, start), 1e-5
    agent, checked = (
        make(DynaQ, env, discount=0.9, epsilon=0.2, initial_q=0.5, planning_steps=10**6, threshold=threshold, seed=0),
        0,
    )
    def after(step):
        nonlocal checked
        if step.step % 20: return
        checked += 1
        assert not agent.waiting
        assert np.abs(agent.table - value_iteration(*as_known(agent, 0.5), 0.9)).max() <= threshold / (1 - 0.9) + 1e-9
    agent.learn(env, 1000, callback=after)
    assert checked == 50 and (agent.next_states < 0).any()


def test_few_updates_a_step_leave_a_queue_that_later_steps_work_off():
    tables, start, _ = maze()
    one = make(DynaQ, World(tables, start), planning_steps=1, initial_q=1.0, seed=0).learn(World(tables, start), 300)
    assert len(one.waiting) > 20
    one.planning_steps = 10**6
    one.plan()
    assert not one.waiting
    assert np.abs(one.table - value_iteration(*as_known(one, 1.0), 0.99)).max() <= 1e-4 + 1e-9


def test_the_queue_serves_the_largest_change_first_and_ties_by_number():
    agent = DynaQ(Discrete(4), Discrete(2), discount=0.5, planning_steps=1)
    for pair, priority in ((5, 1.0), (2, 3.0), (3, 3.0), (5, 4.0), (5, 2.0), (7, 1e-7)):
        agent.enqueue(pair, priority)
    assert agent.waiting == {5: 4.0, 2: 3.0, 3: 3.0}
    agent.next_states[:], agent.rewards[:], agent.terminated[:] = 0, 1.0, True
    for pairs in ({5}, {5, 2}, {5, 2, 3}, {5, 2, 3}):
        agent.plan()
        assert set(np.flatnonzero(agent.table)) == pairs


def test_stale_entries_do_not_pile_up():
    tables, start, _ = maze()
    env = World(tables, start)
    agent = make(DynaQ, env, planning_steps=1, epsilon=0.5, initial_q=1.0, seed=0).learn(env, 20_000)
    assert len(agent.heap) <= 1000


def steps_to_the_shortest_way(Agent, seed, **options):
    tables, start, _ = maze()
    env, when = World(tables, start, limit=5000), []
    agent = make(Agent, env, discount=0.95, epsilon=0.1, seed=seed, **options)
    def after(step):
        if not step.terminated: return False
        at = start
        for _ in range(13):
            at = int(tables[0][at, agent.table[at].argmax()])
        if tables[2][at, agent.table[at].argmax()]:
            when.append(step.step)
        return bool(when)
    agent.learn(env, 20_000, callback=after)
    return when[0] if when else 20_000


def test_dyna_q_learns_a_maze_in_at_most_half_the_steps_of_q_learning():
    q = [steps_to_the_shortest_way(QLearning, seed, step_size=0.5) for seed in range(7)]
    dyna = [steps_to_the_shortest_way(DynaQ, seed) for seed in range(7)]
    assert np.median(dyna) <= np.median(q) / 2, (q, dyna)


def shaped(nvec, goal, scene, discount=0.9):
    """The ideal grid of the shaped reward: a state's value is the number of labels that agree with the
    goal, the scene counting +-1.
    """
    ahead, _, over = grid(nvec, goal)
    agree = np.array(list(np.ndindex(*nvec))) == np.array(goal)
    phi = agree.sum(1) + agree[:, scene] - 1.0 - len(nvec)
    return ahead, discount * np.where(over, 0, phi[ahead]) - phi[:, None] - 0.3 + over, over


def states_to_the_goal(Agent, nvec, scene, goals, **options):
    counts = []
    for g in range(goals):
        env = World(shaped(nvec, np.random.default_rng([3, g]).integers(nvec).tolist(), scene), limit=100)
        agent = make(Agent, env, discount=0.9, seed=g, **options).learn(
            env, 5000, callback=lambda step: step.terminated
        )
        counts.append(len(env.seen) if agent.steps < 5000 else math.inf)
    return np.median(counts)


def test_directed_exploration_visits_few_states():
    explore = dict(epsilon=0.0, initial_q=5.0, persistent=True, locality=0.5)
    few = states_to_the_goal(DynaQ, (2, 20, 3, 4), 3, 40, **explore)
    assert few <= 60
    assert few < states_to_the_goal(DynaQ, (2, 20, 3, 4), 3, 40, **explore | dict(locality=0.0))
    assert few < states_to_the_goal(QLearning, (2, 20, 3, 4), 3, 40, step_size=0.3, epsilon=0.1) / 2


def test_directed_exploration_in_the_large_world():
    assert (
        states_to_the_goal(DynaQ, (2, 20, 3, 3, 4, 3), 4, 15, epsilon=0.0, initial_q=5.0, persistent=True, locality=0.5)
        <= 150
    )


def test_persistence_goes_on_while_nothing_is_better():
    n = 200
    line = np.clip(np.arange(n)[:, None] + [1, -1], 0, n - 1), np.full((n, 2), -1.0), np.zeros((n, 2), bool)
    env = World(line, starts=n // 2)
    spread = [len({step for step in walk(env, persistent)}) for persistent in (True, False)]
    assert spread[0] == 81 and spread[1] < 70


def walk(env, persistent, steps=80):
    agent, seen = make(DynaQ, env, epsilon=0.0, planning_steps=1, initial_q=1.0, persistent=persistent, seed=0), [100]
    agent.learn(env, steps, callback=lambda step: seen.append(step.next_observation))
    return seen


def test_locality_expects_next_door_what_was_paid_here():
    np.array([[1, 0, 0], [2, 0, 1], [2, 1, 2]]), np.zeros((3, 3)), np.zeros((3, 3), bool)
    agent = DynaQ(Discrete(3), Discrete(3), discount=0.5, initial_q=10.0, locality=0.5, planning_steps=1)
    def go(s, a, r, t):
        agent.learn_from(s, a, r, False, t)
    go(0, 1, -4.0, 0)
    go(0, 0, 2.0, 1)
    assert agent.table[1].tolist() == [11.0, 8.0, 10.0]  # action 2 was never tried: no opinion
    go(1, 2, -6.0, 1)
    go(1, 0, 0.0, 2)
    assert agent.table[2].tolist() == [10.0, 8.0, 7.0]   # action 1 as it was expected in state 1
    go(2, 1, 0.0, 1)
    assert agent.table[1, 1] == 8.0                      # a known state is not judged anew


@pytest.mark.parametrize("settings", [{}, dict(locality=.5), dict(persistent=True, initial_q=1.)])
def test_a_discount_of_0_ends_no_episode(settings):
    "The model knows which steps end an episode, whatever the discount; values are those of the next reward."
    tables = grid((3, 4), (2, 1))
    env = World(tables)
    agent = make(DynaQ, env, discount=0., epsilon=1., seed=0, **settings).learn(env, 500)
    tried = agent.visits > 0
    assert (agent.terminated[tried] == tables[2][tried]).all() and 0 < agent.terminated.sum() < tried.sum() / 2
    assert (agent.table[tried] == tables[1][tried]).all()
    leads = {(s * 4 + a, t) for (s, a), t in np.ndenumerate(agent.next_states) if tried[s, a] and not tables[2][s, a]}
    assert {(pair, t) for t, pairs in enumerate(agent.sources) for pair in pairs} == leads


def test_locality_expects_something_with_a_discount_of_0_too():
    agent = DynaQ(Discrete(3), Discrete(2), discount=0., initial_q=10., locality=.5)
    agent.learn_from(0, 1, -4., False, 0)
    agent.learn_from(0, 0, 2., False, 1)
    assert agent.table[1].tolist() == [11., 8.]


def test_a_step_that_is_handed_in_is_checked_too():
    for take in (DynaQ.learn_from, DynaQ.observe):
        models = []
        for over in (True, 1, np.bool_(True), np.uint8(1)):
            agent = DynaQ(Discrete(2), Discrete(2), seed=0)
            take(agent, 0, 1, 1, over, 1)
            models.append((agent.terminated.tobytes(), agent.rewards.tobytes(), agent.table.tobytes()))
        assert len(set(models)) == 1 and agent.terminated.sum() == 1
        for over in (2, 1., None, "no", [True]):
            refused(lambda: take(agent, 0, 1, 1., over, 1), "terminated is", "True or False")
        for reward in (np.nan, 1e308, None, 1j, "1"):
            refused(lambda: take(agent, 0, 1, reward, False, 1), "gave", "finite")
        assert (agent.terminated.tobytes(), agent.rewards.tobytes(), agent.table.tobytes()) == models[0]


def test_flags_of_a_model_may_be_integers():
    ahead, rewards, over = grid((2, 3), (1, 2))
    policy = np.full(rewards.shape, 1 / rewards.shape[1])
    for flags in (over.astype(int), over.astype(np.uint8), over.tolist()):
        assert (value_iteration(ahead, rewards, flags, .9) == value_iteration(ahead, rewards, over, .9)).all()
        assert (policy_value(ahead, rewards, flags, .9, policy) == policy_value(ahead, rewards, over, .9, policy)).all()
        assert (expected_steps(ahead, flags, policy) == expected_steps(ahead, over, policy)).all()
        mine, its = (against_optimum(np.zeros(rewards.shape), (ahead, rewards, x), .9).summary() for x in (flags, over))
        assert str(mine) == str(its)


def test_rewards_are_averaged_and_moves_are_the_latest():
    agent = DynaQ(Discrete(3), Discrete(1), discount=0.5)
    for reward, ahead in ((1.0, 1), (2.0, 1), (6.0, 2)):
        agent.learn_from(0, 0, reward, False, ahead)
    assert agent.rewards[0, 0] == 3.0 and agent.next_states[0, 0] == 2 and agent.table[0, 0] == 3.0
    agent.learn_from(2, 0, 1.0, True, 0)
    assert agent.table[0, 0] == 3.5  # heard from where it leads now
    agent.learn_from(1, 0, 8.0, True, 0)
    assert agent.table[0, 0] == 3.5  # and no more from where it led


def test_the_error_that_is_reported_is_that_of_the_step():
    env, errors = World(grid((1, 4), (0, 3)), starts=0), []
    agent = make(DynaQ, env, discount=0.5, initial_q=2.0, seed=0)
    table = agent.table.copy()
    def after(step):
        errors.append((
            step.td_error,
            step.reward
            + (0 if step.terminated else 0.5 * table[step.next_observation].max())
            - table[step.observation, step.action],
        ))
        table[:] = agent.table
    agent.learn(env, 50, callback=after)
    np.testing.assert_allclose(*np.array(errors).T, atol=1e-12)


def test_dyna_q_of_noisy_rewards_still_reaches_the_optimum():
    env, tables = noisy()
    agent = make(DynaQ, env, discount=0.8, epsilon=1.0, seed=0).learn(env, 20_000)
    assert against_optimum(agent.table, tables, 0.8).max_error < 0.1


# ---- step sizes ----

def noisy():
    "A small world whose rewards are drawn from six fixed ones, and its tables with their means."
    ahead, _, over = grid((2, 3), (1, 2))
    pays = np.random.default_rng(0).uniform(-1, 1, (6, 6))[ahead]
    return World((ahead, pays, over), limit=100), (ahead, pays.mean(-1), over)


def test_decreasing_steps_reach_the_optimum_where_constant_ones_do_not():
    env, tables = noisy()
    error = {}
    for name, step_size in (("constant", 0.5), ("small", 0.1), ("decreasing", robbins_monro(power=0.7))):
        agents = [
            make(QLearning, env, discount=0.8, step_size=step_size, epsilon=1.0, seed=seed).learn(env, 40_000)
            for seed in range(3)
        ]
        error[name] = np.mean(
            [against_optimum(agent.table, tables, 0.8, agent.visits).visited_error for agent in agents]
        )
    assert error["decreasing"] < 0.15 < 0.25 < error["small"] < error["constant"], error


# ---- going on ----

OPTIONS = [
    dict(planning_steps=2, epsilon=0.2, initial_q=0.5),
    dict(planning_steps=3, epsilon=0.0, initial_q=1.0, persistent=True, locality=0.5),
    dict(planning_steps=50, initial_q=(0.0, 1.0), locality=1.0),
]


@pytest.mark.parametrize("options", OPTIONS)
def test_saved_in_the_middle_of_an_episode_and_resumed_bit_for_bit(options, tmp_path):
    tables, start, _ = maze()
    fresh = lambda: (env := World(tables, start), make(DynaQ, env, seed=3, **options))
    env, unbroken = fresh()
    unbroken.learn(env, 600)
    queued = 0
    for stop in (0, 1, 7, 50, 151, 333, 599):
        env, first = fresh()
        first.learn(env, stop).save(tmp_path / "agent")
        queued += len(first.waiting)
        env, second = fresh()[0], DynaQ.load(tmp_path / "agent")
        assert memory(second) == memory(first)
        if second.observation is not None:
            env.reset(options={"state": second.observation})
            second.start_from(env, second.observation)
        assert memory(second.learn(env, 600 - stop)) == memory(unbroken), stop
    if options["planning_steps"] < 50:
        assert queued > 0  # or the queue was not tested


def test_two_runs_with_one_seed_are_equal_and_copies_go_on_alike():
    tables, start, _ = maze()
    env, other = World(tables, start), World(tables, start)
    a, b, c = (
        make(DynaQ, env, seed=1).learn(env, 500),
        make(DynaQ, other, seed=1).learn(other, 500),
        make(DynaQ, other, seed=2),
    )
    assert memory(a) == memory(b) != memory(c.learn(other, 500))
    env_copy, copied = copy.deepcopy((env, a))
    assert memory(a.learn(env, 200)) == memory(copied.start_from(env_copy, copied.observation).learn(env_copy, 200))


def test_looking_does_not_change_learning():
    tables, start, _ = maze()
    env, other = World(tables, start), World(tables, start)
    alone, watched = make(DynaQ, env, seed=1).learn(env, 400), make(DynaQ, other, seed=1)
    for _ in range(8):
        watched.learn(other, 50)
        watched.act(start), watched.act(start, greedy=False), watched.q_values(start)
        arrays, _ = watched.state_dict()
        for array in arrays.values():
            array[...] = 0  # copies
    assert memory(alone)[0]["table"] == memory(watched)[0]["table"]


def test_load_refusals(tmp_path):
    tables, start, _ = maze()
    env = World(tables, start)
    make(QLearning, env, seed=0).learn(env, 20).save(tmp_path / "q")
    make(DynaQ, env, seed=0).learn(env, 20).save(tmp_path / "dyna")
    agent = make(DynaQ, env, seed=0).learn(env, 50)
    before = memory(agent)
    refused(lambda: DynaQ.load(tmp_path / "q"), "'QLearning'", "'DynaQ'")
    refused(lambda: QLearning.load(tmp_path / "dyna"), "'QLearning'", "'DynaQ'")
    refused(lambda: DynaQ.load(tmp_path / "dyna", discount=0.5), "discount")
    assert memory(agent) == before


# ---- what goes wrong ----

def test_worlds_that_are_none_are_refused():
    ahead, rewards, over = grid((2, 3), (1, 2))
    for call in (
        lambda *t, d=0.9: value_iteration(*t, d),
        lambda *t, d=0.9: policy_value(*t, d, np.zeros(6, int)),
        lambda *t, d=0.9: against_optimum(np.zeros((6, 4)), t, d),
    ):
        refused(lambda: call(ahead[:5], rewards, over), "(5, 4)", "[S, A]")
        refused(lambda: call(ahead[0], rewards[0], over[0]), "[S, A]")
        refused(lambda: call(ahead + 1, rewards, over), "0 to 5")
        refused(lambda: call(ahead - 1, rewards, over), "0 to 5")
        refused(lambda: call(ahead.astype(float), rewards, over), "whole numbers")
        for flags in (over.astype(float), 2 * over, np.where(over, "yes", "no"), np.where(over, None, False), over[0]):
            refused(lambda: call(ahead, rewards, flags), "terminated" if np.shape(flags) == over.shape else "[S, A]")
        for bad in (math.nan, math.inf, 1e308, 1j, None, "1"):
            refused(lambda: call(ahead, np.where(over, bad, rewards), over), "finite")
        for discount in (-0.1, 1.1, math.nan, "0.9", None, [0.9]):
            refused(lambda: call(ahead, rewards, over, d=discount), "discount")
    for tolerance in (0, -1, math.nan):
        refused(lambda: value_iteration(ahead, rewards, over, 0.9, tolerance), "tolerance")
    refused(
        lambda: value_iteration(np.zeros((0, 0), int), np.zeros((0, 0)), np.zeros((0, 0), bool), 0.9), "at least one"
    )


def test_policies_that_are_none_are_refused():
    tables = grid((2, 3), (1, 2))
    for policy in (
        np.zeros(5, int),
        np.full(6, 4),
        np.full(6, -1),
        np.zeros(6),
        np.zeros((6, 4)),
        np.full((6, 4), 0.5),
        np.tile([2.0, -1, 0, 0], (6, 1)),
        np.full((6, 4), np.nan),
        np.full((4, 6), 1 / 6),
    ):
        refused(lambda: policy_value(*tables, 0.9, policy), "policy", "0 to 3")
        refused(lambda: expected_steps(tables[0], tables[2], policy), "policy")


def test_comparisons_that_make_no_sense_are_refused():
    tables, zeros = grid((2, 3), (1, 2)), np.zeros((6, 4))
    refused(lambda: against_optimum(np.zeros((4, 6)), tables, 0.9), "table", "(4, 6)", "(6, 4)")
    refused(lambda: against_optimum(zeros * np.nan, tables, 0.9), "NaN")
    refused(lambda: against_optimum(zeros, tables, 0.9, visits=np.zeros(6)), "visits")
    refused(lambda: against_optimum(zeros, tables, 0.9, states=np.zeros(6, bool)), "states")
    refused(lambda: against_optimum(zeros, tables, 0.9, states=np.arange(6)), "states")
    refused(lambda: against_optimum(zeros, tables, 1.0), "below 1")


def test_constructor_refusals():
    ok = Discrete(3), Discrete(2)
    for name, values in dict(
        planning_steps=(0, -1, 1.5, "9", None),
        threshold=(-1, math.nan, math.inf),
        locality=(-0.1, 1.1, math.nan),
        discount=(-1, 2),
        epsilon=(-1, 2),
        initial_q=(math.nan, math.inf),
        seed=(-1, 0.5),
    ).items():
        for value in values:
            refused(lambda: DynaQ(*ok, **{name: value}), name)
    refused(lambda: DynaQ(Box(0, 1, (2,)), Discrete(2)), "Discrete")
    refused(lambda: DynaQ(Discrete(2), Box(0, 1, (2,))), "Discrete")


def test_a_reward_that_is_no_number_never_gets_into_the_model():
    ahead, rewards, over = grid((1, 2), (0, 1), stop=False)
    env = World((ahead, np.full(rewards.shape, np.nan), over))
    agent = make(DynaQ, env, seed=0)
    refused(lambda: agent.learn(env, 10), "Step 1", "finite")
    assert (
        (agent.next_states == -1).all()
        and np.isfinite(agent.table).all()
        and np.isfinite(agent.rewards).all()
        and not agent.waiting
    )


def test_the_module_needs_no_model_library():
    code = (
        "import sys, rlgen.agents.planning; print([m for m in ('torch', 'diffusers', 'transformers', 'PIL', "
        "'matplotlib') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
