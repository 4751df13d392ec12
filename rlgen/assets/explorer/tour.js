// The guided tour: six steps, each of which sets the page up and says what to see.

// Learns without drawing, then shows from the state `begin` what the policy does without exploration.
function learnQuickly(steps, settings, begin = null) {
  change({ ...settings, epsilon: 0.2 });
  for (let i = 0; i < steps; i++) app.runs[0].step();
  change({ epsilon: 0, layer: "reward" });
  app.runs[0].begin(begin);
}

// The neighbour of the goal with the highest reward.
function besideGoal() {
  const { task } = app, actions = Array.from({ length: world.actions }, (_, action) => action);
  const states = actions.map((action) => world.move(task.goalState, action));
  return states.filter((state) => state !== task.goalState).reduce((a, b) => (task.values[b] > task.values[a] ? b : a));
}

// The two plans of an agent beside the goal, in numbers.
function twoPlans() {
  const { task } = app, goal = task.values[task.goalState], near = task.values[besideGoal()];
  const rate = plain(task.discount);
  return [
    `Go to the goal: reward ${plain(goal)}, then the episode terminates. Return ${plain(goal)}.`,
    `Stay beside it: ${plain(near)} + ${rate} · ${plain(near)} + ${rate}² · ${plain(near)} + … = ` +
      `${plain(near)} / (1 − ${rate}) = ${plain(near / (1 - task.discount))}.`,
  ];
}

const TOUR = [
  {
    title: "A finite world",
    show: () => change({ ...start, agents: ["random", ""], layer: "all", speed: 20 }),
    spot: "#world",
    text: () => [
      `Each cell of the map is a prompt, ${world.states} in all, and the image that a diffusion model generates ` +
        "from it. The model is frozen: nothing in it is trained here.",
      "An action changes one word: one label up or down on one axis. The circle is an agent that acts at random.",
    ],
  },
  {
    title: "A goal, and one number",
    show: () => change({ ...start, agents: ["random", ""], layer: "reward", speed: 20 }),
    spot: "#terms",
    text: () => [
      "The goal is an image without words. A perception model reads both images and compares them: that is the " +
        "reward. The map shows it for every prompt.",
      "The agent sees neither images nor words. It gets the number of a state when it is there, and each new image " +
        "costs one call of the generator.",
    ],
  },
  {
    title: "Q-learning",
    show: () => change({ ...start, agents: ["q-learning", ""], speed: 60 }),
    spot: "#tables",
    text: () => [
      "The agent keeps a table: how much reward is to come after each action in each state. Every step moves one " +
        "entry by a part of the TD error.",
      "The first episode is long. Then the high values spread from the goal, and the episodes become short. " +
        "Compare the arrows with those of the exact solution.",
    ],
  },
  {
    title: "How few images?",
    show: () => change({ ...start, agents: ["q-learning", "dyna-q"], speed: 33 }),
    spot: "#curves",
    text: () => [
      "A race: Dyna-Q also learns a model of the grid and plans with it after every step. Watch how many images " +
        "each of them generates until it first reaches the goal.",
      "Then try the coordinate bandit, which may jump to any prompt, and zero-shot reading, which asks perception " +
        "alone.",
    ],
  },
  {
    title: "Why does it stop here?",
    show: () => {
      change({ ...start, agents: ["q-learning", ""], shaped: false, speed: 12 });
      learnQuickly(60000, {}, besideGoal());
    },
    spot: "#world",
    text: () => [
      "60,000 steps of Q-learning with the reward as printed in the paper: the value of the image, at every step. " +
        "The agent begins beside the goal, and does not go there. It has two plans:",
      ...twoPlans(),
      "The agent is right and the reward is wrong: it makes the goal a bad place. This is the reward trap.",
    ],
  },
  {
    title: "The repair",
    show: () => learnQuickly(60000, { ...start, agents: ["q-learning", ""], speed: 17 }),
    spot: "#terms",
    text: () => [
      "Now the same values are a potential Φ, and a step earns γΦ(s′) − Φ(s), minus a cost, plus a bonus at the " +
        "goal. Shaping of this form changes no optimal policy, and pacing earns nothing.",
      "The same 60,000 steps of Q-learning, and the agent goes straight to the goal. Now it is your turn: click an " +
        "image, or change ε, α and γ.",
    ],
  },
];

let place = -1;

function showTour(step, prepareStep = true) {
  document.querySelectorAll(".spot").forEach((element) => element.classList.remove("spot"));
  place = step;
  find("#tour").hidden = step < 0;
  if (step < 0) return;
  const { title, show, spot } = TOUR[step];
  if (prepareStep) {
    show();
    play(!still.matches);
  }
  text("#tour-count", `Step ${step + 1} of ${TOUR.length}`);
  text("#tour-title", title);
  find("#tour-text").replaceChildren(...TOUR[step].text().map((words) =>
    cellOf("p", words, /^(Go|Stay) /.test(words) ? "sum" : "")));
  find("#tour-back").disabled = step === 0;
  text("#tour-next", step === TOUR.length - 1 ? "Finish" : "Next");
  find(spot).classList.add("spot");
  find(spot).scrollIntoView({ block: "nearest", behavior: still.matches ? "auto" : "smooth" });
  find("#tour-title").focus({ preventScroll: true });
}

// The fifth step for whoever meets the trap alone: nothing is set up anew.
function explainStop() {
  showTour(TOUR.findIndex((step) => step.title.startsWith("Why")), false);
  find("#tour-text").firstChild.textContent =
    "The reward is the value of the image, at every step. The agent has found an image that is nearly right, and " +
    "stays. Two plans for an agent beside the goal:";
}

function listenToTour() {
  const opener = find("#tour-open"), close = () => {
    showTour(-1);
    opener.focus({ preventScroll: true });
  };
  opener.onclick = () => showTour(0);
  find("#tour-back").onclick = () => showTour(place - 1);
  find("#tour-next").onclick = () => (place === TOUR.length - 1 ? close() : showTour(place + 1));
  find("#tour-close").onclick = close;
  find("#tour").onkeydown = (event) => event.key === "Escape" && close();
}
