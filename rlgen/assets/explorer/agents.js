// The agents: their update rules are those of the package, float for float. Nothing here knows the document.

// Mulberry32: a small random generator with a seed; numbers from 0 to below 1.
function makeRandom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

function normal(random) {
  return Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

// TD error of Q-learning (Watkins and Dayan 1992; RLDF, Algorithm 1, line 10).
function qLearningError(qBefore, action, reward, discount, qAfter) {
  return reward + discount * maxOf(qAfter) - qBefore[action];
}

// TD error of SARSA (Rummery and Niranjan 1994; RLDF, Algorithm 1, line 14).
function sarsaError(qBefore, action, reward, discount, qAfter, nextAction) {
  return reward + discount * qAfter[nextAction] - qBefore[action];
}

// With probability epsilon any action, else one of the best; ties are broken uniformly at random.
function epsilonGreedy(q, epsilon, random) {
  if (random() < epsilon) return Math.floor(random() * q.length);
  const best = maxOf(q), ties = [];
  for (let action = 0; action < q.length; action++) if (q[action] === best) ties.push(action);
  return ties.length === 1 ? ties[0] : ties[Math.floor(random() * ties.length)];
}

class TabularAgent {
  // options: epsilon, stepSize, discount
  constructor(states, actions, options, random, initialQ = 0) {
    Object.assign(this, { states, actions, options, random, nextAction: null });
    this.table = new Float64Array(states * actions).fill(initialQ);
    this.visits = new Int32Array(states * actions);
  }

  row(state) {
    return this.table.subarray(state * this.actions, (state + 1) * this.actions);
  }

  choose(state) {
    const action = this.nextAction ?? epsilonGreedy(this.row(state), this.options.epsilon, this.random);
    this.nextAction = null;
    return action;
  }

  startEpisode() {
    this.nextAction = null;
  }

  // Moves one entry of the table; returns the TD error. A next action may be given, for SARSA.
  learn(state, action, reward, terminated, next, nextAction) {
    const error = this.error(state, action, reward, terminated ? 0 : this.options.discount, next, nextAction);
    this.table[state * this.actions + action] += this.options.stepSize * error;
    this.visits[state * this.actions + action]++;
    return error;
  }
}

class QLearning extends TabularAgent {
  error(state, action, reward, discount, next) {
    return qLearningError(this.row(state), action, reward, discount, this.row(next));
  }
}

class Sarsa extends TabularAgent {
  error(state, action, reward, discount, next, nextAction) {
    this.nextAction = nextAction ?? epsilonGreedy(this.row(next), this.options.epsilon, this.random);
    return sarsaError(this.row(state), action, reward, discount, this.row(next), this.nextAction);
  }
}

class RandomAgent extends TabularAgent {
  choose() {
    return Math.floor(this.random() * this.actions);
  }

  error() {
    return 0;
  }
}

// A binary heap of [priority, pair]: the largest priority first, of equal ones the smallest pair.
class Heap {
  constructor() {
    this.items = [];
  }

  before(i, j) {
    const a = this.items[i], b = this.items[j];
    return a[0] > b[0] || (a[0] === b[0] && a[1] < b[1]);
  }

  swap(i, j) {
    [this.items[i], this.items[j]] = [this.items[j], this.items[i]];
  }

  push(item) {
    let i = this.items.push(item) - 1;
    for (let up; i > 0 && this.before(i, (up = (i - 1) >> 1)); i = up) this.swap(i, up);
  }

  pop() {
    const top = this.items[0], last = this.items.pop(), n = this.items.length;
    if (!n) return top;
    this.items[0] = last;
    for (let i = 0; ; ) {
      let first = i;
      for (const child of [2 * i + 1, 2 * i + 2]) if (child < n && this.before(child, first)) first = child;
      if (first === i) return top;
      this.swap(i, first);
      i = first;
    }
  }
}

// Dyna-Q with prioritised sweeping (Sutton and Barto 2018, section 8.4), optimistic, persistent and local.
class DynaQ extends TabularAgent {
  constructor(states, actions, options, random) {
    super(states, actions, options, random, 1 + actions / 2);
    Object.assign(this, { planningSteps: 50, threshold: 1e-6, locality: 0.5 });
    this.next = new Int32Array(states * actions).fill(-1);
    this.rewards = new Float64Array(states * actions);
    this.over = new Uint8Array(states * actions);
    this.sources = Array.from({ length: states }, () => new Set());
    this.waiting = new Map();
    this.heap = new Heap();
  }

  visited(state) {
    return this.visits.subarray(state * this.actions, (state + 1) * this.actions).some((count) => count > 0);
  }

  // Writes one step into the model.
  observe(state, action, reward, over, next) {
    const pair = state * this.actions + action, count = this.visits[pair];
    const fresh = !over && next !== state && !this.sources[next].size && !this.visited(next);
    this.rewards[pair] = count ? this.rewards[pair] + (reward - this.rewards[pair]) / (count + 1) : reward;
    if (this.next[pair] >= 0) this.sources[this.next[pair]].delete(pair);
    if (!over) this.sources[next].add(pair);
    this.next[pair] = next;
    this.over[pair] = over ? 1 : 0;
    if (!fresh) return;
    for (let a = 0; a < this.actions; a++) { // a new state expects the rewards of its neighbour
      const there = next * this.actions + a;
      this.rewards[there] = this.rewards[state * this.actions + a];
      this.table[there] += this.locality * this.rewards[there];
    }
  }

  enqueue(pair, priority) {
    if (priority <= this.threshold || priority <= (this.waiting.get(pair) ?? 0)) return;
    this.waiting.set(pair, priority);
    this.heap.push([priority, pair]);
  }

  // At most `planningSteps` updates of known pairs, the largest changes first.
  plan() {
    for (let left = this.planningSteps; left > 0 && this.heap.items.length; ) {
      const [priority, pair] = this.heap.pop();
      if (this.waiting.get(pair) !== priority) continue; // out of date
      this.waiting.delete(pair);
      left--;
      const state = Math.floor(pair / this.actions), row = this.row(state), old = maxOf(row);
      const ahead = this.over[pair] ? 0 : this.options.discount * maxOf(this.row(this.next[pair]));
      this.table[pair] = this.rewards[pair] + ahead;
      const value = maxOf(row);
      if (value === old) continue;
      for (const source of this.sources[state]) {
        this.enqueue(source, Math.abs(this.rewards[source] + this.options.discount * value - this.table[source]));
      }
    }
  }

  learn(state, action, reward, terminated, next) {
    this.observe(state, action, reward, terminated, next);
    const pair = state * this.actions + action, discount = terminated ? 0 : this.options.discount;
    const error = qLearningError(this.row(state), action, reward, discount, this.row(next));
    this.enqueue(pair, Math.abs(qLearningError(this.row(state), action, this.rewards[pair], discount, this.row(next))));
    this.plan();
    this.visits[pair]++;
    const q = Array.from(this.row(next));
    if (q[action] === maxOf(q)) q[action] = Infinity; // persistent: a tie goes on in the same direction
    this.nextAction = epsilonGreedy(q, 0, this.random);
    return error;
  }
}

// Inverse of a symmetric positive definite matrix, [n][n], by Gauss and Jordan.
function inverse(matrix) {
  const n = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...row.map((_, j) => (i === j ? 1 : 0))]);
  for (let i = 0; i < n; i++) {
    const pivot = rows[i][i];
    for (let k = 0; k < 2 * n; k++) rows[i][k] /= pivot;
    for (let j = 0; j < n; j++) {
      const factor = rows[j][i];
      if (j === i || factor === 0) continue;
      for (let k = i; k < 2 * n; k++) rows[j][k] -= factor * rows[i][k];
    }
  }
  return rows.map((row) => row.slice(n));
}

function cholesky(matrix) {
  const lower = matrix.map((row) => row.map(() => 0));
  for (let i = 0; i < matrix.length; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i][j];
      for (let k = 0; k < j; k++) sum -= lower[i][k] * lower[j][k];
      lower[i][j] = i === j ? Math.sqrt(Math.max(sum, 0)) : lower[j][j] && sum / lower[j][j];
    }
  }
  return lower;
}

// Bayesian linear regression of standardised rewards on labels, with Student's t noise of 2 degrees of freedom.
function labelPosterior(encodings, rewards, nvec, noise = 0.15, rounds = 5) {
  const offsets = nvec.map((_, i) => nvec.slice(0, i).reduce((sum, n) => sum + n, 0));
  const size = nvec.reduce((sum, n) => sum + n, 0), count = rewards.length, precise = noise ** -2;
  const rows = encodings.map((labels) => labels.map((label, i) => offsets[i] + label));
  const average = rewards.reduce((sum, r) => sum + r, 0) / (count || 1);
  const deviation = Math.sqrt(rewards.reduce((sum, r) => sum + (r - average) ** 2, 0) / (count || 1)) || 1;
  const y = rewards.map((r) => (r - average) / deviation);
  let trust = y.map(() => 1), mean, covariance;
  for (let round = 0; round <= rounds; round++) {
    const precision = Array.from({ length: size }, (_, i) =>
      Array.from({ length: size }, (_, j) => (i === j ? nvec.length : 0)));
    const right = new Array(size).fill(0);
    rows.forEach((row, n) => row.forEach((i) => {
      right[i] += trust[n] * y[n] * precise;
      for (const j of row) precision[i][j] += trust[n] * precise;
    }));
    covariance = inverse(precision);
    mean = covariance.map((line) => line.reduce((sum, c, j) => sum + c * right[j], 0));
    trust = rows.map((row, n) => {
      let square = (y[n] - row.reduce((sum, i) => sum + mean[i], 0)) ** 2;
      for (const i of row) for (const j of row) square += covariance[i][j];
      return 3 / (2 + square * precise);
    });
  }
  return { mean, covariance };
}

// The encodings whose scores have the largest sums, the best first.
function bestSums(scores, count) {
  let best = [{ sum: 0, labels: [] }];
  for (const axis of scores) {
    best = best
      .flatMap(({ sum, labels }) => axis.map((score, label) => ({ sum: sum + score, labels: [...labels, label] })))
      .sort((a, b) => b.sum - a.sum)
      .slice(0, count);
  }
  return best.map((row) => row.labels);
}

// Thompson sampling for a reward that is nearly a sum over axes: it may choose any state.
class CoordinateBandit {
  constructor(world, options, random) {
    Object.assign(this, { world, random, chooses: true, exploration: 0.5, memory: new Map() });
  }

  propose() {
    const { nvec } = this.world, states = [...this.memory.keys()];
    const encodings = states.map((state) => this.world.labels(state));
    const { mean, covariance } = labelPosterior(encodings, [...this.memory.values()], nvec);
    const lower = cholesky(covariance.map((row) => row.map((c) => c * this.exploration ** 2)));
    const noise = mean.map(() => normal(this.random));
    const scores = mean.map((m, i) => {
      const sample = m + lower[i].reduce((sum, l, j) => sum + l * noise[j], 0);
      return Math.max(m, sample) + 1e-9 * sample;
    });
    const { offsets } = this.world, byAxis = nvec.map((n, i) => scores.slice(offsets[i], offsets[i] + n));
    const ranking = bestSums(byAxis, this.memory.size + 1).map((labels) => this.world.index(labels));
    return ranking.find((state) => !this.memory.has(state)) ?? ranking[0];
  }

  remember(state, reward) {
    this.memory.set(state, reward);
  }
}

// No search at all: perception reads the goal image, and that is the prompt.
class ZeroShot {
  constructor(task) {
    Object.assign(this, { chooses: true, task });
  }

  propose() {
    return this.task.goalState;
  }

  remember() {}
}

const AGENTS = {
  "q-learning": { name: "Q-learning", make: (t, o, r) => new QLearning(t.world.states, t.world.actions, o, r) },
  sarsa: { name: "SARSA", make: (t, o, r) => new Sarsa(t.world.states, t.world.actions, o, r) },
  "dyna-q": { name: "Dyna-Q", make: (t, o, r) => new DynaQ(t.world.states, t.world.actions, o, r) },
  random: { name: "Random", make: (t, o, r) => new RandomAgent(t.world.states, t.world.actions, o, r) },
  bandit: { name: "Coordinate bandit", make: (t, o, r) => new CoordinateBandit(t.world, o, r) },
  "zero-shot": { name: "Zero-shot reading", make: (t) => new ZeroShot(t) },
};

// Numbers over time in bounded memory: beyond 1,024 of them neighbours are averaged.
class Series {
  constructor() {
    Object.assign(this, { values: [], every: 1, sum: 0, count: 0 });
  }

  add(value) {
    this.sum += value;
    if (++this.count < this.every) return;
    this.values.push(this.sum / this.count);
    this.sum = this.count = 0;
    if (this.values.length < 1024) return;
    this.values = this.values.flatMap((v, i) => (i % 2 ? [] : [(v + this.values[i + 1]) / 2]));
    this.every *= 2;
  }
}

const EPISODE = 100, TRAIL = 40;

// One agent in one task: episodes, what was seen, what it cost.
class Run {
  constructor(task, kind, options, seed) {
    Object.assign(this, { task, kind, steps: 0, episodes: 0, found: 0, calls: 0, done: false, last: null });
    this.agent = AGENTS[kind].make(task, options, makeRandom(2 * seed + 1));
    this.starts = makeRandom(2 * seed); // two agents of one race start at the same places
    this.seen = new Uint8Array(task.world.states);
    this.trail = [];
    this.series = { reward: new Series(), distance: new Series(), calls: new Series(), length: new Series() };
    this.state = -1; // between two episodes
  }

  visit(state) {
    if (!this.seen[state]) this.calls++;
    this.seen[state] = 1;
    this.state = state;
    this.trail.push(state);
    if (this.trail.length > TRAIL) this.trail.shift();
  }

  begin(start = null) {
    const { goalState, world } = this.task;
    this.trail = [];
    this.length = 0;
    this.agent.startEpisode();
    this.visit(start ?? (goalState + 1 + Math.floor(this.starts() * (world.states - 1))) % world.states);
    this.last = null;
  }

  // One step, or the start of the next episode.
  step() {
    if (this.done) return;
    if (this.agent.chooses) return this.choose();
    if (this.state < 0) return this.begin();
    const { task } = this, before = this.state, action = this.agent.choose(before);
    const pair = before * task.world.actions + action, reward = task.rewards[pair];
    const terminated = task.terminated[pair] === 1, after = task.next[pair];
    const error = this.agent.learn(before, action, reward, terminated, after);
    this.visit(after);
    this.note(before, action, reward, terminated, error);
    if (terminated || ++this.length >= EPISODE) this.end(terminated);
  }

  choose() {
    const before = this.state, after = this.agent.propose(), { task } = this;
    this.agent.remember(after, task.values[after]);
    this.visit(after);
    this.note(before, null, task.values[after], after === task.goalState, 0);
    this.done = after === task.goalState || this.calls === task.world.states || this.kind === "zero-shot";
    if (this.done) this.end(after === task.goalState);
  }

  note(before, action, reward, terminated, error) {
    this.steps++;
    this.last = { before, after: this.state, action, reward, terminated, error };
    this.series.reward.add(reward);
    this.series.distance.add(this.task.world.distance(this.state, this.task.goalState));
    this.series.calls.add(this.calls);
  }

  end(found) {
    this.episodes++;
    if (found) {
      this.found++;
      this.lastLength = this.agent.chooses ? this.steps : this.length + 1;
      this.firstFound ??= { steps: this.steps, calls: this.calls };
    }
    this.series.length.add(this.agent.chooses ? this.steps : found ? this.length + 1 : EPISODE);
    if (!this.agent.chooses) this.state = -1;
  }

  // Whether the agent has been pacing between a few states that are not the goal.
  get pacing() {
    return this.trail.length === TRAIL && new Set(this.trail.slice(-24)).size <= 3;
  }
}
