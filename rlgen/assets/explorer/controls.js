// The controls of the page, the map as a control, and the start of everything.

function showSettings() {
  [0, 1].forEach((i) => {
    find(`#agent-${i}`).value = app.agents[i];
    text(`#card-${i} .who`, app.agents[i] ? AGENTS[app.agents[i]].name : "");
    find(`#card-${i}`).item = undefined;
  });
  const race = Boolean(app.agents[1]);
  find("#card-1").hidden = !race;
  find("#cards").classList.toggle("three", race);
  find("#reward").value = app.reward;
  find("#shaped").checked = app.shaped;
  for (const name of ["epsilon", "stepSize", "discount", "speed"]) find(`#${name}`).value = app[name];
  for (const name of ["epsilon", "stepSize", "discount"]) text(`#${name}-value`, app[name].toFixed(2));
  text("#speed-value", `${stepsPerSecond()} / s`);
  find("#speed").setAttribute("aria-valuetext", `${stepsPerSecond()} steps a second`);
  find(`input[name="layer"][value="${app.layer}"]`).checked = true;
  find("#zoom").setAttribute("aria-pressed", app.zoom);
  drawTerms.key = null;
  showGoal();
}

// The goal's image, and its prompt as lists to choose from.
function showGoal() {
  const { goal } = app, labels = goal < world.states ? world.labels(goal) : world.reading(goal);
  drawImage(find("#goal canvas"), goal);
  document.querySelectorAll("#goal-words select").forEach((list) => (list.value = labels[list.dataset.axis]));
  const read = world.prompt(app.task.goalState);
  const own = goal < world.states ? "" : world.goals[goal - world.states];
  const named = own ? `${own}, read as: ${read}` : `Image of the prompt: ${world.prompt(goal)}`;
  find("#goal canvas").setAttribute("aria-label", `Goal. ${named}`);
  const misread = goal < world.states && app.task.goalState !== goal;
  find("#goal-note").textContent = misread ? `Perception reads “${read}” in it: there an episode terminates.` : "";
}

function makeControls() {
  const option = (value, name) => Object.assign(document.createElement("option"), { value, textContent: name });
  const agents = Object.entries(AGENTS).map(([value, { name }]) => [value, name]);
  find("#agent-0").append(...agents.map((pair) => option(...pair)));
  find("#agent-1").append(option("", "nobody"), ...agents.map((pair) => option(...pair)));
  const rewards = Object.entries(REWARDS).filter(([name]) => world.scene !== null || name === "clip");
  find("#reward").append(...rewards.map((pair) => option(...pair)));
  find("#goal-words").append(...world.pieces.flatMap((piece) => {
    if (typeof piece === "string") return [`${piece} `];
    const list = document.createElement("select"), axis = world.axes[piece];
    list.dataset.axis = piece;
    list.setAttribute("aria-label", `Goal: ${axis.name}`);
    list.style.color = `var(--${axisColour(piece)})`;
    list.append(...axis.labels.map((label, i) => option(i, label)));
    list.onchange = () => {
      const lists = document.querySelectorAll("#goal-words select");
      change({ goal: world.index(Array.from(lists, (each) => Number(each.value))) });
    };
    return [list, " "];
  }));
  const more = find("#goal-more");
  world.goals.forEach((name, i) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.onclick = () => change({ goal: world.states + i });
    more.append(button, " ");
  });
  more.append(Object.assign(document.createElement("span"), { id: "goal-note" }));
  CHARTS.forEach(([name, title]) => {
    const figure = document.createElement("figure"), canvas = document.createElement("canvas");
    Object.assign(canvas, { id: `chart-${name}` }).setAttribute("role", "img");
    figure.append(Object.assign(document.createElement("figcaption"), { textContent: title }), canvas);
    find("#curves .charts").append(figure);
  });
  const map = new Layout(world, 900), sign = (axis) => {
    if (axis === map.tall) return "↓↑";
    if (axis === map.across) return "→←";
    const count = map.outer.length - map.outer.indexOf(axis);
    return "▸".repeat(count) + "◂".repeat(count);
  };
  const signs = world.axes.map((axis, i) => `${sign(i)} ${axis.name}`).join(", ");
  text("#legend", "Colour: the value of the best action, dark is low; with the shaped reward Φ is added " +
    `back, so that values rise toward the goal. Sign: the best action, ${signs}. Grey: not visited yet.`);
}

function listen() {
  find("#play").onclick = () => play(!app.playing);
  find("#step").onclick = () => (play(false), stepAll());
  find("#reset").onclick = () => (restart(), play(false));
  find("#goal-random").onclick = () => change({ goal: Math.floor(Math.random() * world.states), seed: app.seed + 1 });
  find("#why").onclick = () => explainStop();
  find("#zoom").onclick = () => (change({ zoom: !app.zoom }), fitMap());
  [0, 1].forEach((i) => {
    find(`#agent-${i}`).onchange = (event) => change({ agents: app.agents.with(i, event.target.value) });
  });
  find("#reward").onchange = (event) => change({ reward: event.target.value });
  find("#shaped").onchange = (event) => change({ shaped: event.target.checked });
  for (const name of ["epsilon", "stepSize", "discount", "speed"]) {
    const when = name === "discount" ? "change" : "input"; // another discount needs new agents
    find(`#${name}`).addEventListener(when, (event) => change({ [name]: Number(event.target.value) }));
  }
  find("#discount").oninput = (event) => text("#discount-value", (+event.target.value).toFixed(2));
  document.querySelectorAll("input[name=layer]").forEach((input) => {
    input.onchange = () => change({ layer: input.value });
  });
  new ResizeObserver(() => (fitMap(), showSettings())).observe(find("#world"));
  const repaint = () => {
    colours = {};
    showSettings();
    dirty = true;
  };
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  listenToMap();
}

function listenToMap() {
  const map = find("#map"), peek = find("#peek");
  const at = (event) => {
    const box = map.getBoundingClientRect();
    return layout.stateAt(event.clientX - box.left, event.clientY - box.top);
  };
  map.setAttribute("aria-label",
    `Map of ${world.states} prompts. Arrow keys, Page Up and Page Down move the cursor, Enter sets the goal.`);
  map.onpointermove = (event) => event.pointerType === "mouse" && showPeek(at(event), event.clientX, event.clientY);
  map.onpointerleave = (event) => event.pointerType === "mouse" && showPeek(-1);
  map.onclick = (event) => {
    const state = at(event);
    if (["touch", "pen"].includes(event.pointerType)) showPeek(state, event.clientX, event.clientY, true);
    else if (state >= 0) chooseGoal(state);
  };
  map.onkeydown = (event) => {
    const axis = { ArrowDown: layout.tall, ArrowUp: layout.tall, ArrowRight: layout.across, ArrowLeft: layout.across };
    const back = ["ArrowUp", "ArrowLeft", "PageUp"].includes(event.key);
    let state = app.cursor >= 0 ? app.cursor : app.task.goalState;
    if (event.key === "Enter" || event.key === " ") chooseGoal(state);
    else if (event.key === "Escape") return showPeek(-1);
    else if (event.key.startsWith("Page")) {
      const labels = world.labels(state), order = layout.outer.toReversed();
      for (const i of order) { // the next panel, as an odometer turns
        labels[i] = (labels[i] + (back ? world.nvec[i] - 1 : 1)) % world.nvec[i];
        if (labels[i] !== (back ? world.nvec[i] - 1 : 0)) break;
      }
      state = world.index(labels);
    } else if (axis[event.key] === undefined) return;
    else state = world.move(state, 2 * axis[event.key] + (back ? 1 : 0));
    event.preventDefault();
    const box = map.getBoundingClientRect(), { x, y } = layout.middle(state);
    showPeek(state, box.left + x, box.top + y);
    text("#cursor", `${world.prompt(state)}. Reward ${plain(app.task.values[state])}.`);
  };
  map.onblur = () => peek.classList.contains("touch") || showPeek(-1);
  find("#peek-goal").onclick = () => chooseGoal(app.cursor);
  document.addEventListener("pointerdown", (event) => {
    if (!peek.contains(event.target) && event.target !== map) showPeek(-1);
  });
}

function chooseGoal(state) {
  showPeek(-1);
  change({ goal: state, seed: app.seed + 1 });
  text("#cursor", `The goal is now the image of: ${world.prompt(state)}.`);
}

// The image of a state, large, beside the pointer.
function showPeek(state, x = 0, y = 0, touch = false) {
  const peek = find("#peek");
  app.hover = state >= 0;
  if (state !== app.cursor) dirty = true;
  app.cursor = state;
  peek.hidden = state < 0;
  if (state < 0) return;
  peek.classList.toggle("touch", touch);
  drawImage(peek.querySelector("canvas"), state);
  showPrompt(peek.querySelector(".prompt"), world.labels(state));
  const row = app.best.subarray(state * world.actions, (state + 1) * world.actions);
  const learned = app.runs.find((run) => run.agent.table)?.agent.row(state);
  const facts = [
    `Reward ${plain(app.task.values[state])}`, `distance ${world.distance(state, app.task.goalState)}`,
    ...(learned ? [`max Q ${plain(maxOf(learned))}`] : []), `max Q* ${plain(maxOf(row))}`,
  ];
  text(peek.querySelector(".facts"), facts.join(", "));
  const { width, height } = peek.getBoundingClientRect();
  peek.style.left = `${x + 18 + width < innerWidth ? x + 18 : Math.max(4, x - 18 - width)}px`;
  peek.style.top = `${Math.max(4, Math.min(y - height / 2, innerHeight - height - 4))}px`;
}

// ---- Start

function open() {
  makeControls();
  restart();
  fitMap();
  listen();
  listenToTour();
  play(!still.matches);
  requestAnimationFrame(tick);
}

const image = new Image();
image.onload = () => {
  sprite = new Sprite(image, data.sprite);
  open();
};
image.src = data.sprite.src;

window.rlgen = {
  World, makeTask, rewardTerms, rewardOf, shapingReward, stepReward, valueIteration, qLearningError, sarsaError,
  epsilonGreedy, QLearning, Sarsa, DynaQ, RandomAgent, labelPosterior, bestSums, Run, makeRandom, world, app,
};
