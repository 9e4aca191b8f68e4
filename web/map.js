// The floor as the agent knows it: fog where it has not been, foes, items, stairs, the way it plans, the way it came.
import { css, font } from "./charts.js";

const DIRECTIONS = [[0, 1], [1, 1], [1, 0], [1, -1], [0, -1], [-1, -1], [-1, 0], [-1, 1]];

export class FloorMap {
  constructor(canvas) {
    this.canvas = canvas;
    this.hidden = false;
    this.trail = [];
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    addEventListener("themechange", () => this.draw());
  }

  /** index: of a step of the past (then the way came by steps that follow each other), -1: live. */
  show(world, plan, place, index) {
    const leader = world?.team?.find((m) => m.leader);
    if (place !== this.place || (index >= 0 && index !== this.index + 1 && index !== this.index)) this.trail = [];
    this.index = index;
    this.place = place;
    if (leader && world.ground) {
      const last = this.trail.at(-1);
      if (!last || last[0] !== leader.x || last[1] !== leader.y) this.trail.push([leader.x, leader.y]);
      if (this.trail.length > 160) this.trail.shift();
    }
    this.world = world;
    this.plan = plan;
    this.draw();
  }

  colours() {
    return Object.fromEntries(["floor", "wall", "fog", "ghost", "water", "grid", "hp", "ally", "foe", "item", "path", "text", "card", "soft"].map((n) => [n, css("--" + n)]));
  }

  /** The part of the map worth showing: what is known and a margin, not too small; all of the floor when hidden ground is shown. */
  part(world) {
    if (!world?.ground) return { x: 0, y: 0, columns: 56, rows: 32 };
    let [left, top, right, bottom] = [world.width, world.height, 0, 0];
    for (let i = 0; i < world.ground.length; i++) {
      if (world.ground[i] === "#" || (world.known[i] === "0" && !this.hidden)) continue;
      const x = i % world.width, y = Math.floor(i / world.width);
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    for (const [x, y] of this.plan?.path || []) {
      left = Math.min(left, x); right = Math.max(right, x); top = Math.min(top, y); bottom = Math.max(bottom, y);
    }
    if (right < left) return { x: 0, y: 0, columns: world.width, rows: world.height };
    const columns = Math.max(30, right - left + 5), rows = Math.max(17, bottom - top + 5);
    return { x: Math.round((left + right + 1 - columns) / 2), y: Math.round((top + bottom + 1 - rows) / 2), columns, rows };
  }

  draw() {
    const world = this.world, canvas = this.canvas, box = canvas.parentElement;
    const ratio = devicePixelRatio || 1, part = this.part(world);
    const width = Math.max(100, Math.floor(box.clientWidth * ratio)), height = Math.floor(Math.max(200, Math.min(box.clientWidth * 0.6, 340)) * ratio);
    const size = Math.max(2, Math.floor(Math.min(width / part.columns, height / part.rows)));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      canvas.style.width = `${width / ratio}px`;
      canvas.style.height = `${height / ratio}px`;
    }
    const c = canvas.getContext("2d"), colour = this.colours();
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.globalAlpha = 1;
    c.fillStyle = colour.fog;
    c.fillRect(0, 0, canvas.width, canvas.height);
    if (!world?.ground) {
      c.fillStyle = colour.soft;
      c.font = font(13 * ratio);
      c.textAlign = "center";
      c.fillText("no floor on the screen now", canvas.width / 2, canvas.height / 2);
      return;
    }
    c.translate(Math.floor((width - size * part.columns) / 2) - part.x * size, Math.floor((height - size * part.rows) / 2) - part.y * size);
    this.ground(c, world, size, world.width, colour);
    this.ways(c, size, colour);
    this.things(c, world, size, colour);
  }

  ground(c, world, size, columns, colour) {
    const open = (i) => world.ground[i] !== "#";
    for (let i = 0; i < world.ground.length; i++) {
      const x = i % columns, y = Math.floor(i / columns), known = world.known[i] !== "0", kind = world.ground[i];
      if (known && kind !== "#") {
        c.fillStyle = kind === "~" ? colour.water : colour.floor;
        c.fillRect(x * size, y * size, size, size);
        c.fillStyle = colour.grid;
        c.fillRect(x * size, y * size, size, 1);
        c.fillRect(x * size, y * size, 1, size);
      } else if (!known && this.hidden && open(i)) {
        c.fillStyle = colour.ghost;
        c.fillRect(x * size, y * size, size, size);
      } else if (kind === "#" && this.besideKnown(world, x, y, columns)) {
        c.fillStyle = colour.wall;
        c.fillRect(x * size, y * size, size, size);
      }
    }
  }

  besideKnown(world, x, y, columns) {
    const rows = world.ground.length / columns;
    return DIRECTIONS.some(([dx, dy]) => {
      const ax = x + dx, ay = y + dy, i = ay * columns + ax;
      return ax >= 0 && ay >= 0 && ax < columns && ay < rows && world.known[i] !== "0" && world.ground[i] !== "#";
    });
  }

  ways(c, size, colour) {
    const middle = ([x, y]) => [(x + 0.5) * size, (y + 0.5) * size];
    c.lineCap = c.lineJoin = "round";
    for (let i = 1; i < this.trail.length; i++) {
      const [ax, ay] = this.trail[i - 1], [bx, by] = this.trail[i];
      if (Math.abs(ax - bx) > 2 || Math.abs(ay - by) > 2) continue;
      c.globalAlpha = 0.15 + 0.45 * i / this.trail.length;
      c.strokeStyle = colour.hp;
      c.lineWidth = Math.max(1, size * 0.16);
      c.beginPath();
      c.moveTo(...middle([ax, ay]));
      c.lineTo(...middle([bx, by]));
      c.stroke();
    }
    c.globalAlpha = 1;
    const path = this.plan?.path;
    if (!path?.length) return;
    c.fillStyle = c.strokeStyle = colour.path;
    for (const at of path) {
      c.beginPath();
      c.arc(...middle(at), Math.max(1.2, size * 0.17), 0, 7);
      c.fill();
    }
    c.lineWidth = Math.max(1, size * 0.16);
    c.beginPath();
    c.arc(...middle(path.at(-1)), size * 0.62, 0, 7);
    c.stroke();
  }

  things(c, world, size, colour) {
    const seen = (t) => t.seen || this.hidden, alpha = (t) => { c.globalAlpha = t.seen ? 1 : 0.4; };
    if (world.stairs && (world.stairs[2] || this.hidden)) {
      const [x, y, known] = world.stairs, s = size;
      c.globalAlpha = known ? 1 : 0.45;
      c.fillStyle = colour.text;
      for (let i = 0; i < 3; i++) c.fillRect(x * s + s * (0.1 + 0.27 * i), y * s + s * (0.64 - 0.27 * i), s * 0.27, s * (0.26 + 0.27 * i));
      c.strokeStyle = colour.text;
      c.lineWidth = Math.max(1, size * 0.09);
      c.strokeRect(x * s - s * 0.2, y * s - s * 0.2, s * 1.4, s * 1.4);
    }
    for (const t of (world.traps || []).filter(seen)) {
      alpha(t);
      c.strokeStyle = colour.foe;
      c.lineWidth = Math.max(1, size * 0.14);
      c.beginPath();
      c.moveTo((t.x + 0.25) * size, (t.y + 0.25) * size); c.lineTo((t.x + 0.75) * size, (t.y + 0.75) * size);
      c.moveTo((t.x + 0.75) * size, (t.y + 0.25) * size); c.lineTo((t.x + 0.25) * size, (t.y + 0.75) * size);
      c.stroke();
    }
    for (const t of (world.items || []).filter(seen)) {
      alpha(t);
      this.mark(c, t, size, colour.item, colour.card, () => c.roundRect((t.x + 0.2) * size, (t.y + 0.2) * size, size * 0.6, size * 0.6, size * 0.18));
    }
    for (const t of (world.foes || []).filter(seen)) {
      alpha(t);
      const x = (t.x + 0.5) * size, y = (t.y + 0.5) * size, r = size * 0.62;
      this.mark(c, t, size, colour.foe, colour.card, () => { c.moveTo(x, y - r); c.lineTo(x + r, y); c.lineTo(x, y + r); c.lineTo(x - r, y); c.closePath(); });
    }
    c.globalAlpha = 1;
    for (const t of [...(world.team || [])].sort((a, b) => a.leader - b.leader)) {
      const x = (t.x + 0.5) * size, y = (t.y + 0.5) * size, [dx, dy] = DIRECTIONS[t.facing] || [0, 0], n = Math.hypot(dx, dy) || 1;
      this.mark(c, t, size, t.leader ? colour.hp : colour.ally, colour.card, () => c.arc(x, y, size * (t.leader ? 0.68 : 0.5), 0, 7));
      c.fillStyle = colour.card;
      c.beginPath();
      c.arc(x + dx / n * size * 0.3, y + dy / n * size * 0.3, size * 0.18, 0, 7);
      c.fill();
    }
  }

  mark(c, t, size, fill, edge, shape) {
    c.beginPath();
    shape();
    c.fillStyle = fill;
    c.strokeStyle = edge;
    c.lineWidth = Math.max(1, size * 0.14);
    c.fill();
    c.stroke();
  }
}
