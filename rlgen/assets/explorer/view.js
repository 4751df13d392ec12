// The page: its state, its controls, and what it shows.

const find = (selector) => document.querySelector(selector);
const text = (selector, words) => {
  const element = typeof selector === "string" ? find(selector) : selector;
  if (element.textContent !== words) element.textContent = words;
};
const plain = (number) => {
  const digits = Math.abs(number).toFixed(2).replace(/\.?0+$/, "");
  return number < 0 && digits !== "0" ? `−${digits}` : digits;
};
const signed = (number) => (plain(number).match(/^[−0]/) ? plain(number) : `+${plain(number)}`);

const REWARDS = { multi: "multi-semantic", partial: "partial (scene alone)", clip: "CLIP cosine" };
const still = window.matchMedia("(prefers-reduced-motion: reduce)");

const data = JSON.parse(find("#data").textContent);
const world = new World(data);
const start = {
  agents: ["dyna-q", ""], reward: world.scene === null ? "clip" : "multi", shaped: true, goal: data.first,
  epsilon: 0.1, stepSize: 0.3, discount: 0.9, speed: 25, layer: "found", seed: 1,
};
const app = { ...start, playing: false, zoom: false, cursor: -1, hover: false };
let sprite, layout, owed = 0, before = 0, drawn = 0, told = 0, dirty = true, marks = [];

// ---- What is computed

function stepsPerSecond() {
  return Math.round(5000 ** (app.speed / 100));
}

// New agents with empty tables, in the task of the present settings.
function restart() {
  app.task = makeTask(world, app.goal, app.reward, app.shaped, app.discount);
  app.best = valueIteration(app.task);
  app.runs = app.agents.filter(Boolean).map((kind) => new Run(app.task, kind, app, app.seed));
  app.runs.forEach((run) => run.agent.chooses || run.begin());
  marks = [];
  app.changed = null;
  told = 0;
  showSettings();
  dirty = true;
}

const LIVE = ["epsilon", "stepSize", "speed", "layer", "zoom"];

// Changes some settings; all but the live ones need new agents, which go on where finished ones have stopped.
function change(settings) {
  const finished = app.runs.every((run) => run.done);
  Object.assign(app, settings);
  if (Object.keys(settings).some((name) => !LIVE.includes(name))) {
    restart();
    if (finished && !still.matches) play();
  } else showSettings();
  dirty = true;
}

function play(on = true) {
  if (on && app.runs.every((run) => run.done)) {
    app.seed++;
    restart();
  }
  app.playing = on && app.runs.some((run) => !run.done);
  text("#play", app.playing ? "Pause" : "Play");
  before = performance.now();
  owed = 0;
  if (!app.playing) tell(true);
}

function stepAll() {
  app.runs.forEach((run) => run.step());
  dirty = true;
  if (app.runs.every((run) => run.done)) play(false);
}

function tick(now) {
  if (app.playing) {
    owed = Math.min(owed + ((now - before) / 1000) * stepsPerSecond(), stepsPerSecond());
    before = now;
    for (const limit = performance.now() + 12; owed >= 1 && app.playing && performance.now() < limit; owed--) stepAll();
  }
  if (dirty || moveMarks()) draw(now);
  requestAnimationFrame(tick);
}

// ---- What is shown

function draw(now) {
  dirty = false;
  app.runs.forEach((run, i) => drawCard(run, find(`#card-${i}`)));
  drawMap();
  drawTerms();
  tell(false);
  if (now - drawn > 120 || !app.playing) {
    drawn = now;
    drawCharts();
    drawTables();
  } else dirty = true;
}

function drawImage(canvas, item) {
  const size = canvas.clientWidth, ctx = prepare(canvas, size, size);
  ctx.imageSmoothingQuality = "high";
  if (item >= 0) sprite.draw(ctx, item, 0, 0, size);
}

// The words of a prompt in the colours of their axes; one that has just changed is marked.
function showPrompt(element, labels, changed = null) {
  element.replaceChildren(...world.words(labels).flatMap((word) => {
    if (word.axis === undefined) return [`${word.text} `];
    const part = document.createElement(word.axis === changed ? "mark" : "b");
    part.textContent = word.text;
    if (word.axis !== changed) part.style.color = `var(--${axisColour(word.axis)})`;
    return [part, " "];
  }));
}

function drawCard(run, card) {
  const item = run.state >= 0 ? run.state : run.last?.after ?? -1;
  const axis = run.last && run.last.action !== null && run.last.before !== run.last.after ? run.last.action >> 1 : null;
  text(card.querySelector(".count"), `step ${run.steps}, ${run.calls} image${run.calls === 1 ? "" : "s"}`);
  if (card.item === item && card.axis === axis && card.wide === card.clientWidth) return;
  Object.assign(card, { item, axis, wide: card.clientWidth });
  drawImage(card.querySelector("canvas"), item);
  if (item < 0) return card.querySelector(".prompt").replaceChildren("no image yet");
  showPrompt(card.querySelector(".prompt"), world.labels(item), axis);
  card.querySelector("canvas").setAttribute("aria-label", `Image of the prompt: ${world.prompt(item)}`);
}

function fitMap() {
  find("#world .scroll").classList.toggle("zoomed", app.zoom);
  const room = find("#world .scroll").clientWidth, wide = app.zoom ? { least: 40, most: 64 } : {};
  layout = new Layout(world, room, wide);
  Object.assign(find("#map").style, { width: `${layout.width}px`, height: `${layout.height}px` });
  dirty = true;
}

function drawMap() {
  const ctx = prepare(find("#map"), layout.width, layout.height), { cell, cellHeight } = layout;
  const values = app.task.values, low = Math.min(...values), high = Math.max(...values), fog = colour("fog");
  ctx.imageSmoothingQuality = "high";
  layout.drawLabels(ctx);
  for (let state = 0; state < world.states; state++) {
    const { x, y } = layout.place(state);
    ctx.fillStyle = app.layer === "reward" ? shade((values[state] - low) / (high - low || 1)).fill : fog;
    ctx.fillRect(x, y, cell - 1, cellHeight - 1);
    if (app.layer === "reward") continue;
    ctx.globalAlpha = app.layer === "all" || app.runs.some((run) => run.seen[state]) ? 1 : 0.13; // not generated yet
    sprite.draw(ctx, state, x, y, cell - 1, cellHeight - 1);
    ctx.globalAlpha = 1;
  }
  app.runs.forEach((run, i) => drawTrail(ctx, run, i ? "b" : "a"));
  drawFrame(ctx, layout, app.task.goalState, "card", 5);
  drawFrame(ctx, layout, app.task.goalState, "goal", 3);
  app.runs.forEach((run, i) => drawMark(ctx, run, i));
  if (app.cursor >= 0) drawFrame(ctx, layout, app.cursor, "ink", 2);
}

function drawTrail(ctx, run, name) {
  ctx.lineCap = "round";
  ctx.strokeStyle = colour(name);
  if (run.agent.chooses) return;
  run.trail.slice(1).forEach((state, i) => {
    const from = layout.middle(run.trail[i]), to = layout.middle(state);
    ctx.globalAlpha = (0.85 * (i + 1)) / run.trail.length;
    ctx.lineWidth = 2.5;
    ctx.beginPath();
    ctx.moveTo(from.x, from.y);
    ctx.quadraticCurveTo((from.x + to.x) / 2, (from.y + to.y) / 2 - Math.abs(to.x - from.x) * 0.12, to.x, to.y);
    ctx.stroke();
  });
  ctx.globalAlpha = 1;
}

// Marks glide from state to state; true while one is on its way.
function moveMarks() {
  let moving = false;
  app.runs.forEach((run, i) => {
    const state = run.state >= 0 ? run.state : run.last?.after ?? -1;
    if (state < 0) return;
    const to = layout.middle(state), mark = (marks[i] ??= { ...to });
    const share = still.matches || stepsPerSecond() > 40 ? 1 : 0.3;
    for (const axis of ["x", "y"]) {
      if (Math.abs(to[axis] - mark[axis]) < 0.5) mark[axis] = to[axis];
      else {
        mark[axis] += share * (to[axis] - mark[axis]);
        moving = true;
      }
    }
  });
  return moving;
}

function drawMark(ctx, run, i) {
  moveMarks();
  const mark = marks[i];
  if (!mark) return;
  ctx.beginPath();
  ctx.arc(mark.x - 0.5, mark.y - 0.5, Math.max(5, layout.cell * 0.34), 0, 2 * Math.PI);
  ctx.lineWidth = 5;
  ctx.strokeStyle = colour("card");
  ctx.stroke();
  ctx.lineWidth = 3;
  ctx.strokeStyle = colour(i ? "b" : "a");
  ctx.stroke();
  const scroll = find("#world .scroll");
  if (app.zoom && i === 0 && app.playing && !app.hover) {
    scroll.scrollTo(mark.x - scroll.clientWidth / 2, mark.y - scroll.clientHeight / 2);
  }
}

function cellOf(kind, words, className = "") {
  const element = document.createElement(kind);
  element.textContent = words;
  element.className = className;
  return element;
}

// What perception reads in the image, what it reads in the goal, and the terms of the reward.
function drawTerms() {
  const run = app.runs[0], item = run.state >= 0 ? run.state : run.last?.after ?? -1, { task } = app;
  if (item < 0) return;
  const key = [item, task.goal, task.reward, run.last?.reward, app.agents[0]].join();
  if (drawTerms.key === key) return;
  drawTerms.key = key;
  const terms = rewardTerms(world, task.reward, item, task.goal), seen = world.reading(item);
  const wanted = world.reading(task.goal), table = document.createElement("table");
  const row = (parent, cells) => parent.insertRow().append(...cells);
  row(table.createTHead(), ["Axis", "Seen in image", "In goal"].map((name) => cellOf("th", name))
    .concat(cellOf("th", "Reward", "number")));
  const body = table.createTBody();
  world.axes.forEach((axis, i) => {
    const right = seen[i] === wanted[i], percent = Math.round(100 * world.probability(item, i, seen[i]));
    const name = cellOf("th", axis.name);
    name.scope = "row";
    name.style.color = `var(--${axisColour(i)})`;
    const here = `${right ? "✓" : "✗"} ${axis.labels[seen[i]]} (${percent}\u202f%)`;
    row(body, [name, cellOf("td", here, right ? "right" : "wrong"), cellOf("td", axis.labels[wanted[i]]),
      cellOf("td", axis.name in terms ? signed(terms[axis.name]) : "", "number")]);
  });
  const sum = cellOf("th", task.reward === "clip" ? "Cosine of the embeddings" : "Sum");
  [sum.colSpan, sum.scope] = [3, "row"];
  row(table.createTFoot(), [sum, cellOf("td", signed(task.values[item]), "number")]);
  find("#reward-table").replaceChildren(table);
  text("#step-reward", stepFormula(run.last));
}

function stepFormula(last) {
  const { task } = app;
  if (!last) return "The first step is to come.";
  if (!task.shaped || last.action === null) return `Reward of this step: ${signed(last.reward)}`;
  const phi = [last.before, last.after].map((state) => task.values[state] - task.best);
  if (last.terminated) phi[1] = 0;
  const bracket = (number) => (number < 0 ? `(${plain(number)})` : plain(number));
  const [name, bonus] = last.terminated ? [" + bonus", ` + ${BONUS}`] : ["", ""];
  return `Reward of this step: γΦ(s′) − Φ(s) − cost${name} = ${plain(task.discount)} · ` +
    `${bracket(phi[1])} − ${bracket(phi[0])} − ${STEP_COST}${bonus} = ${signed(last.reward)}`;
}

const CHARTS = [
  ["reward", "Reward of a step", "steps"], ["distance", "Distance to the goal", "steps"],
  ["calls", "Unique generator calls", "steps"], ["length", "Steps of each episode", "episodes"],
];

function drawCharts() {
  for (const [name, title, unit] of CHARTS) {
    const canvas = find(`#chart-${name}`);
    const lines = app.runs.map((run, i) => ({ ...run.series[name], name: i ? "b" : "a" }));
    drawCurves(canvas, lines, unit);
    const ends = app.runs.map((run) => `${AGENTS[run.kind].name} ${plain(run.series[name].values.at(-1) ?? 0)}`);
    canvas.setAttribute("aria-label", `${title}, now: ${ends.join(", ")}`);
  }
}

// The tables of the agents that have one, and the exact values.
function drawTables() {
  const holder = find("#tables .maps"), learners = app.runs.filter((run) => run.agent.table && run.kind !== "random");
  const key = learners.map((run) => run.kind).join();
  if (holder.dataset.key !== key) {
    holder.dataset.key = key;
    holder.replaceChildren(...[...learners, null].map(() => {
      const figure = document.createElement("figure"), canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      figure.append(document.createElement("figcaption"), canvas);
      return figure;
    }));
  }
  const size = world.actions, { task } = app, rowOf = (array, s) => array.subarray(s * size, (s + 1) * size);
  const lift = (state) => (task.shaped ? task.values[state] - task.best : 0); // Q + Φ: the value without the shaping
  const tops = Array.from({ length: world.states }, (_, state) => maxOf(rowOf(app.best, state)) + lift(state));
  tops.splice(task.goalState, 1);
  const range = { low: Math.min(...tops), high: Math.max(...tops), lift };
  [...holder.children].forEach((figure, i) => {
    const run = learners[i], canvas = figure.querySelector("canvas");
    const map = new Layout(world, figure.clientWidth, { least: 9, most: 24 });
    const known = (state) => !run || rowOf(run.agent.visits, state).some((count) => count > 0);
    drawTable(canvas, map, run ? run.agent.table : app.best, range, known, task.goalState);
    const hint = run?.kind === "dyna-q" ? " (optimistic: untried actions are bright)" : "";
    const words = run
      ? `Learned Q of ${AGENTS[run.kind].name}${hint}: ${agreement(run, known)}`
      : "Exact Q*, by value iteration";
    text(figure.querySelector("figcaption"), words);
    canvas.setAttribute("aria-label", words);
  });
}

// How many of the visited states have a best action that is optimal.
function agreement(run, known) {
  let count = 0, right = 0;
  for (let state = 0; state < world.states; state++) {
    if (!known(state) || state === app.task.goalState) continue;
    const row = run.agent.row(state), best = app.best.subarray(state * world.actions, (state + 1) * world.actions);
    count++;
    right += best[row.indexOf(maxOf(row))] >= maxOf(best) - 1e-9;
  }
  return count ? `${right} of ${count} arrows are optimal` : "nothing yet";
}

function report(run) {
  const name = AGENTS[run.kind].name, images = `${run.calls} of ${world.states} images generated`;
  if (run.kind === "zero-shot" && run.done) {
    return `${name}: no search. Perception names the prompt, and one image is generated to check it.`;
  }
  if (!run.firstFound && run.done) return `${name}: stopped, ${images}.`;
  if (!run.firstFound) return `${name}: ${run.steps} steps, ${images}, goal not reached yet.`;
  const first = `goal first reached after ${run.firstFound.steps} steps and ${run.firstFound.calls} images`;
  if (run.agent.chooses) return `${name}: ${first}.`;
  const episodes = `${run.episodes} episode${run.episodes === 1 ? "" : "s"}`;
  return `${name}: ${first}; last one in ${run.lastLength} steps, ${episodes}.`;
}

// The status line is read aloud, so it changes seldom.
function tell(now) {
  const pacing = !app.shaped && app.runs.some((run) => run.pacing);
  find("#why").hidden = !pacing;
  if (!now && performance.now() - told < 2500) return;
  told = performance.now();
  text("#status", app.runs.map(report).join(" "));
}
