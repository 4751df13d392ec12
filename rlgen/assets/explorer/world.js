// The world of the page: its grid, its rewards, its Markov decision process. Nothing here knows the document.

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}

// IEEE 754 half precision, for browsers without Float16Array.
function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// Items are the images: one of each state, then the goal images that came with the world.
class World {
  constructor(data) {
    this.axes = data.axes; // [{name, labels}]
    this.pieces = data.pieces; // of a prompt: the index of an axis, or fixed words
    this.nvec = data.axes.map((axis) => axis.labels.length);
    this.states = this.nvec.reduce((product, n) => product * n, 1);
    this.actions = 2 * this.nvec.length;
    this.strides = this.nvec.map((_, i) => this.nvec.slice(i + 1).reduce((product, n) => product * n, 1));
    this.scene = data.scene; // the axis that is the scene, or null
    this.goals = data.goals; // names of further goal images
    this.items = this.states + data.goals.length;
    this.sprite = data.sprite; // {src, size, columns}: item i is in row i / columns
    const read = bytesOf(data.encodings);
    this.read = new Uint16Array(read.buffer); // labels that perception reads, [items, axes]
    this.probabilities = bytesOf(data.probabilities); // of all labels, axis by axis, in 255ths, [items, sum of nvec]
    this.offsets = this.nvec.map((_, i) => this.nvec.slice(0, i).reduce((sum, n) => sum + n, 0));
    this.width = data.width; // of an embedding
    this.embeddings = Float64Array.from(new Uint16Array(bytesOf(data.embeddings).buffer), halfToNumber);
  }

  labels(state) {
    return this.nvec.map((n, i) => Math.floor(state / this.strides[i]) % n);
  }

  index(labels) {
    return labels.reduce((sum, label, i) => sum + label * this.strides[i], 0);
  }

  reading(item) {
    const width = this.nvec.length;
    return Array.from(this.read.subarray(item * width, (item + 1) * width));
  }

  probability(item, axis, label) {
    const width = this.probabilities.length / this.items;
    return this.probabilities[item * width + this.offsets[axis] + label] / 255;
  }

  // The parts of a prompt, [{text, axis}]; fixed words have no axis.
  words(labels) {
    return this.pieces.map((piece) =>
      typeof piece === "number" ? { text: this.axes[piece].labels[labels[piece]], axis: piece } : { text: piece });
  }

  prompt(state) {
    return this.words(this.labels(state)).map((word) => word.text).join(" ").replace(/ ([,.;:!?])/g, "$1");
  }

  // One label up (action 2i) or down (2i + 1) on axis i; at the ends of an axis a step leads nowhere.
  move(state, action) {
    const axis = action >> 1, label = Math.floor(state / this.strides[axis]) % this.nvec[axis];
    const after = Math.min(Math.max(label + (action & 1 ? -1 : 1), 0), this.nvec[axis] - 1);
    return state + (after - label) * this.strides[axis];
  }

  distance(state, other) {
    const labels = this.labels(other);
    return this.labels(state).reduce((sum, label, i) => sum + Math.abs(label - labels[i]), 0);
  }

  cosine(item, other) {
    let sum = 0;
    for (let i = 0, a = item * this.width, b = other * this.width; i < this.width; i++) {
      sum += this.embeddings[a + i] * this.embeddings[b + i];
    }
    return sum;
  }
}

// The named terms of a reward for the image of an item: RLDF, equations 2 to 6.
function rewardTerms(world, name, item, goal) {
  if (name === "clip") return { cosine: world.cosine(item, goal) };
  const seen = world.reading(item), wanted = world.reading(goal), terms = {};
  world.axes.forEach((axis, i) => {
    if (i !== world.scene && name === "multi") terms[axis.name] = seen[i] === wanted[i] ? 1 : 0;
  });
  terms[world.axes[world.scene].name] = seen[world.scene] === wanted[world.scene] ? 1 : -1;
  return terms;
}

function rewardOf(world, name, item, goal) {
  return Object.values(rewardTerms(world, name, item, goal)).reduce((sum, term) => sum + term, 0);
}

// Potential-based shaping (Ng, Harada and Russell 1999, equation 2).
function shapingReward(phiBefore, phiAfter, discount) {
  return discount * phiAfter - phiBefore;
}

const STEP_COST = 0.3, BONUS = 1;

// The reward of a step: the value of the new image, or its shaped form.
function stepReward(task, before, after, terminated) {
  if (!task.shaped) return after;
  const phi = terminated ? 0 : after - task.best;
  return shapingReward(before - task.best, phi, task.discount) - STEP_COST + BONUS * terminated;
}

// One goal and one reward: where each action leads, what it earns, and where an episode terminates.
function makeTask(world, goal, reward, shaped, discount) {
  const task = { world, goal, reward, shaped, discount, goalState: world.index(world.reading(goal)) };
  task.best = rewardOf(world, reward, goal, goal);
  task.values = Float64Array.from({ length: world.states }, (_, state) => rewardOf(world, reward, state, goal));
  const size = world.states * world.actions;
  task.next = new Int32Array(size);
  task.terminated = new Uint8Array(size);
  task.rewards = new Float64Array(size);
  for (let pair = 0; pair < size; pair++) {
    const state = Math.floor(pair / world.actions), next = world.move(state, pair % world.actions);
    task.next[pair] = next;
    task.terminated[pair] = next === task.goalState;
    task.rewards[pair] = stepReward(task, task.values[state], task.values[next], next === task.goalState);
  }
  return task;
}

// Q* of a deterministic MDP (Sutton and Barto 2018, eq. 4.10); discount below 1.
function valueIteration(task, tolerance = 1e-10) {
  const { next, rewards, terminated, discount } = task, actions = task.world.actions;
  const low = rewards.reduce((least, reward) => Math.min(least, reward), 0);
  const values = new Float64Array(task.world.states).fill(low / (1 - discount)), q = new Float64Array(next.length);
  for (let change = Infinity; (discount * change) / (1 - discount) > tolerance; ) {
    for (let pair = 0; pair < q.length; pair++) {
      q[pair] = terminated[pair] ? rewards[pair] : rewards[pair] + discount * values[next[pair]];
    }
    change = 0;
    for (let state = 0; state < values.length; state++) {
      const best = maxOf(q.subarray(state * actions, (state + 1) * actions));
      change = Math.max(change, Math.abs(best - values[state]));
      values[state] = best;
    }
  }
  return q;
}

function maxOf(row) {
  let best = -Infinity;
  for (const value of row) if (value > best) best = value;
  return best;
}
