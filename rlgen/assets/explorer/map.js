// Drawing on canvases: where states stand on the map, images, heat maps with arrows, curves.

let colours = {}; // of the style sheet, read once; emptied when the colour scheme changes

function colour(name) {
  return (colours[name] ??= getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
}

function axisColour(axis) {
  return `axis-${axis % 6}`;
}

// A canvas of a size in CSS pixels, sharp on every screen; its context, cleared.
function prepare(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1, size = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== size[0] || canvas.height !== size[1]) [canvas.width, canvas.height] = size;
  const ctx = canvas.getContext("2d");
  ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
  ctx.clearRect(0, 0, width, height);
  return ctx;
}

const VIRIDIS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
  [92, 200, 99], [170, 220, 50], [253, 231, 37]];

// A colour for a number from 0 to 1, and whether it is pale.
function shade(t) {
  const place = Math.min(Math.max(t, 0), 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const rgb = VIRIDIS[i].map((c, k) => Math.round(c + (place - i) * (VIRIDIS[i + 1][k] - c)));
  return { fill: `rgb(${rgb})`, pale: rgb[0] * 0.3 + rgb[1] * 0.59 + rgb[2] * 0.11 > 130 };
}

const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, sans-serif";

// Panels of the longest axis (downwards) by the last other one (across); the rest of the axes number the panels.
class Layout {
  constructor(world, width, { least = 10, most = 34, panelsInRow = Infinity } = {}) {
    const axes = world.nvec.map((_, i) => i);
    this.world = world;
    this.tall = axes.reduce((best, i) => (world.nvec[i] > world.nvec[best] ? i : best), 0);
    this.across = axes.filter((i) => i !== this.tall).pop();
    this.outer = axes.filter((i) => i !== this.tall && i !== this.across);
    this.rows = world.nvec[this.tall];
    this.columns = this.across === undefined ? 1 : world.nvec[this.across];
    this.panels = this.outer.reduce((product, i) => product * world.nvec[i], 1);
    this.font = width < 400 ? 10 : 12;
    this.gap = width < 500 ? 4 : 8;
    this.left = 8 + this.widest(this.tall);
    for (let k = 1; k <= this.panels; k++) {
      this.perRow = Math.ceil(this.panels / k);
      const room = width - this.left - (this.perRow - 1) * this.gap - 2;
      this.cell = Math.min(Math.floor(room / (this.perRow * this.columns)), most);
      if (this.cell >= least && this.perRow <= panelsInRow) break;
    }
    this.cell = Math.max(this.cell, 6);
    this.cellHeight = Math.max(this.cell, this.font + 3);
    this.head = this.outer.length * (this.font + 5) + 3;
    this.foot = this.across === undefined ? 6 : this.widest(this.across) + 14;
    this.panelWidth = this.columns * this.cell;
    this.rowHeight = this.head + this.rows * this.cellHeight + this.foot;
    this.width = this.left + this.perRow * (this.panelWidth + this.gap);
    this.height = Math.ceil(this.panels / this.perRow) * this.rowHeight;
  }

  widest(axis) {
    const ctx = (Layout.ruler ??= document.createElement("canvas").getContext("2d"));
    ctx.font = `${this.font}px ${FONT}`;
    return Math.ceil(Math.max(...this.world.axes[axis].labels.map((label) => ctx.measureText(label).width)));
  }

  // The labels of the outer axes of a panel.
  panelLabels(panel) {
    return this.outer.map((axis, i) => {
      const stride = this.outer.slice(i + 1).reduce((product, other) => product * this.world.nvec[other], 1);
      return Math.floor(panel / stride) % this.world.nvec[axis];
    });
  }

  corner(panel) {
    return {
      x: this.left + (panel % this.perRow) * (this.panelWidth + this.gap),
      y: Math.floor(panel / this.perRow) * this.rowHeight + this.head,
    };
  }

  // The corner of a state's cell.
  place(state) {
    const labels = this.world.labels(state);
    const panel = this.outer.reduce((sum, axis) => sum * this.world.nvec[axis] + labels[axis], 0);
    const { x, y } = this.corner(panel), column = this.across === undefined ? 0 : labels[this.across];
    return { x: x + column * this.cell, y: y + labels[this.tall] * this.cellHeight };
  }

  middle(state) {
    const { x, y } = this.place(state);
    return { x: x + this.cell / 2, y: y + this.cellHeight / 2 };
  }

  stateAt(x, y) {
    const px = Math.floor((x - this.left) / (this.panelWidth + this.gap)), py = Math.floor(y / this.rowHeight);
    const panel = py * this.perRow + px;
    if (px < 0 || px >= this.perRow || panel < 0 || panel >= this.panels) return -1;
    const corner = this.corner(panel);
    const column = Math.floor((x - corner.x) / this.cell), row = Math.floor((y - corner.y) / this.cellHeight);
    if (column < 0 || column >= this.columns || row < 0 || row >= this.rows) return -1;
    const labels = new Array(this.world.nvec.length).fill(0);
    this.panelLabels(panel).forEach((label, i) => (labels[this.outer[i]] = label));
    labels[this.tall] = row;
    if (this.across !== undefined) labels[this.across] = column;
    return this.world.index(labels);
  }

  // The words of the axes around the panels.
  drawLabels(ctx) {
    const { axes } = this.world;
    ctx.font = `${this.font}px ${FONT}`;
    ctx.textBaseline = "middle";
    for (let panel = 0; panel < this.panels; panel++) {
      const { x, y } = this.corner(panel);
      if (panel % this.perRow === 0) {
        ctx.textAlign = "right";
        ctx.fillStyle = colour(axisColour(this.tall));
        axes[this.tall].labels.forEach((label, row) =>
          ctx.fillText(label, this.left - 5, y + (row + 0.5) * this.cellHeight));
      }
      ctx.textAlign = "right";
      if (this.across !== undefined) {
        ctx.fillStyle = colour(axisColour(this.across));
        axes[this.across].labels.forEach((label, column) => {
          ctx.save();
          ctx.translate(x + (column + 0.5) * this.cell, y + this.rows * this.cellHeight + 4);
          ctx.rotate(-Math.PI / 2);
          ctx.fillText(label, 0, 0);
          ctx.restore();
        });
      }
      this.drawHead(ctx, panel, x, y);
    }
  }

  // Above a panel the labels of the outer axes, each once for neighbours that share it.
  drawHead(ctx, panel, x, y) {
    const own = this.panelLabels(panel), inRow = panel % this.perRow;
    own.forEach((label, i) => {
      const same = (other) =>
        this.panelLabels(other).every((l, k) => k > i || l === own[k]);
      if (inRow > 0 && same(panel - 1)) return;
      let span = 1;
      while (inRow + span < this.perRow && panel + span < this.panels && same(panel + span)) span++;
      const width = span * (this.panelWidth + this.gap) - this.gap;
      const axis = this.outer[i], line = y - this.head + (i + 0.5) * (this.font + 5);
      const pieces = this.world.pieces, next = pieces[pieces.indexOf(axis) + 1];
      const short = this.world.axes[axis].labels[label];
      const long = typeof next === "string" ? `${short} ${next}` : short;
      ctx.fillStyle = colour(axisColour(axis));
      ctx.textAlign = "center";
      ctx.fillText(ctx.measureText(long).width <= width ? long : short, x + width / 2, line, width);
      if (span > 1) {
        ctx.globalAlpha = 0.5;
        ctx.fillRect(x, line + this.font / 2 + 1, width, 1);
        ctx.globalAlpha = 1;
      }
    });
  }
}

// Images from the sprite, cropped to a frame.
class Sprite {
  constructor(image, { size, columns }) {
    Object.assign(this, { image, size, columns });
  }

  draw(ctx, item, x, y, width, height = width) {
    const scale = Math.min(this.size / width, this.size / height), w = width * scale, h = height * scale;
    const left = (item % this.columns) * this.size + (this.size - w) / 2;
    const top = Math.floor(item / this.columns) * this.size + (this.size - h) / 2;
    ctx.drawImage(this.image, left, top, w, h, x, y, width, height);
  }
}

// The sign of an action: arrows within a panel; triangles, one or more, from panel to panel.
function drawAction(ctx, layout, action, x, y, size) {
  const axis = action >> 1, back = action & 1, r = size / 2;
  ctx.save();
  ctx.translate(x, y);
  const inside = axis === layout.tall || axis === layout.across;
  ctx.rotate((axis === layout.tall ? Math.PI / 2 : 0) + (back ? Math.PI : 0));
  ctx.beginPath();
  if (inside) {
    ctx.moveTo(-r, 0);
    ctx.lineTo(r, 0);
    ctx.moveTo(r * 0.3, -r * 0.6);
    ctx.lineTo(r, 0);
    ctx.lineTo(r * 0.3, r * 0.6);
    ctx.stroke();
  } else {
    const count = layout.outer.length - layout.outer.indexOf(axis), step = (2 * r) / (count + 0.2);
    for (let k = 0; k < count; k++) {
      const left = -r + k * step;
      ctx.moveTo(left, -r * 0.8);
      ctx.lineTo(left + step, 0);
      ctx.lineTo(left, r * 0.8);
      ctx.closePath();
    }
    ctx.fill();
  }
  ctx.restore();
}

// Heat of the best action value of each known state, and the sign of the action; `lift` is added to a state's value.
function drawTable(canvas, layout, table, { low, high, lift }, known, goalState) {
  const { world, cell, cellHeight } = layout, ctx = prepare(canvas, layout.width, layout.height);
  Object.assign(canvas.style, { width: `${layout.width}px`, height: `${layout.height}px` });
  layout.drawLabels(ctx);
  ctx.lineWidth = 1.4;
  for (let state = 0; state < world.states; state++) {
    const row = table.subarray(state * world.actions, (state + 1) * world.actions), { x, y } = layout.place(state);
    const best = maxOf(row), { fill, pale } = shade((best + lift(state) - low) / (high - low || 1));
    ctx.fillStyle = known(state) ? fill : colour("fog");
    ctx.fillRect(x, y, cell - 1, cellHeight - 1);
    if (!known(state) || state === goalState) continue;
    ctx.strokeStyle = ctx.fillStyle = pale ? "#101010" : "#ffffff";
    const action = row.indexOf(best);
    drawAction(ctx, layout, action, x + cell / 2 - 0.5, y + cellHeight / 2 - 0.5, Math.min(cell, cellHeight) * 0.6);
  }
  drawFrame(ctx, layout, goalState, "goal", 2.5);
}

function drawFrame(ctx, layout, state, name, width) {
  const { x, y } = layout.place(state);
  ctx.strokeStyle = colour(name);
  ctx.lineWidth = width;
  ctx.strokeRect(x - 1, y - 1, layout.cell + 1, layout.cellHeight + 1);
}

// Curves of several series over one x axis.
function drawCurves(canvas, lines, unit) {
  const width = canvas.clientWidth, height = canvas.clientHeight, left = 44, bottom = 18;
  const ctx = prepare(canvas, width, height), values = lines.flatMap((line) => line.values);
  ctx.font = `12px ${FONT}`;
  ctx.strokeStyle = colour("line");
  ctx.lineWidth = 1;
  ctx.strokeRect(left + 0.5, 4.5, width - left - 6, height - bottom - 8);
  if (!values.length) {
    ctx.fillStyle = colour("soft");
    ctx.fillText("none yet", left + 12, 22);
    return;
  }
  let low = values.reduce((a, b) => Math.min(a, b)), high = values.reduce((a, b) => Math.max(a, b));
  if (high - low < 1e-9) [low, high] = [low - 0.5, high + 0.5];
  const last = Math.max(...lines.map((line) => line.values.length * line.every), 2);
  const number = (v) => (Math.abs(v) >= 100 || Number.isInteger(v) ? v.toFixed(0) : v.toFixed(Math.abs(v) < 1 ? 2 : 1));
  ctx.fillStyle = colour("soft");
  ctx.textBaseline = "middle";
  ctx.textAlign = "right";
  ctx.fillText(number(high), left - 5, 10);
  ctx.fillText(number(low), left - 5, height - bottom - 8);
  ctx.fillText(`${last} ${unit}`, width - 6, height - 8);
  ctx.textAlign = "left";
  ctx.fillText("1", left, height - 8);
  for (const { values: line, every, name } of lines) {
    ctx.beginPath();
    line.forEach((value, i) => {
      const x = left + 3 + ((i + 0.5) * every / last) * (width - left - 12);
      const y = 8 + ((high - value) / (high - low)) * (height - bottom - 15);
      if (i) ctx.lineTo(x, y);
      else ctx.moveTo(x, y);
    });
    ctx.strokeStyle = colour(name);
    ctx.lineWidth = 1.6;
    ctx.lineJoin = "round";
    ctx.stroke();
  }
}
