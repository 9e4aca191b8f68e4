// Lines over steps, drawn on canvases.

/** Colours of the style sheet by name; asking for them anew each time would make the browser work out its styles. */
const colours = new Map();
addEventListener("themechange", () => colours.clear());
export function css(name) {
  if (!colours.has(name)) colours.set(name, getComputedStyle(document.documentElement).getPropertyValue(name).trim());
  return colours.get(name);
}
export const font = (size) => `${size}px ${css("--sans")}`;

function sharp(canvas) {
  const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  const across = Math.max(1, Math.round(width * ratio)), down = Math.max(1, Math.round(height * ratio));
  if (canvas.width !== across || canvas.height !== down) canvas.width = across, canvas.height = down;
  const c = canvas.getContext("2d");
  c.setTransform(ratio, 0, 0, ratio, 0, 0);
  c.clearRect(0, 0, width, height);
  return { c, width, height };
}

/** HP and belly as lines, floors as bands, other deciders as ticks; a mark at the step shown. */
export function drawLanes(canvas, rows, at) {
  const { c, width, height } = sharp(canvas), n = rows.length, pad = 14, top = 20, bottom = height - 12;
  if (!n) return;
  const x = (i) => n === 1 ? width / 2 : pad + (width - 2 * pad) * i / (n - 1);
  const y = (share) => bottom - (bottom - top) * Math.max(0, Math.min(1, share));
  const per = Math.max(1, Math.floor(n / (width * 2)));
  c.font = font(12);
  let start = 0;
  for (let i = 1; i <= n; i++) {
    if (i < n && rows[i].floor === rows[start].floor && rows[i].episode === rows[start].episode) continue;
    const left = start ? (x(start) + x(start - 1)) / 2 : 0, right = i < n ? (x(i) + x(i - 1)) / 2 : width;
    c.fillStyle = rows[start].floor % 2 ? css("--ghost") : "transparent";
    c.globalAlpha = 0.6;
    c.fillRect(left, 0, right - left, height);
    c.globalAlpha = 1;
    if (rows[start].floor && right - left > 28) {
      c.fillStyle = css("--soft");
      c.fillText(`B${rows[start].floor}F`, left + 8, 15);
    }
    start = i;
  }
  c.fillStyle = css("--human");
  rows.forEach((r, i) => { if (r.decided_by !== "model" && r.decided_by !== rows[0].decided_by) c.fillRect(x(i) - 0.75, height - 8, 1.5, 8); });
  const line = (colour, share) => {
    c.strokeStyle = css(colour);
    c.lineWidth = 2;
    c.lineJoin = "round";
    c.beginPath();
    let open = false;
    for (let i = 0; i < n; i += per) {
      const v = share(rows[i]);
      if (v === null) { open = false; continue; }
      if (open) c.lineTo(x(i), y(v)); else c.moveTo(x(i), y(v));
      open = true;
    }
    c.stroke();
  };
  line("--belly", (r) => r.max_hp ? r.belly / 100 : null);
  line("--hp", (r) => r.max_hp ? r.hp / r.max_hp : null);
  if (at >= 0 && at < n) {
    c.fillStyle = css("--text");
    c.fillRect(x(at) - 1, 0, 2, height);
    c.beginPath();
    c.arc(x(at), y(rows[at].max_hp ? rows[at].hp / rows[at].max_hp : 0), 4.5, 0, 7);
    c.fill();
  }
}

/** The last values as bars, with their largest written in. */
export function drawSpark(canvas, values, unit) {
  const { c, width, height } = sharp(canvas), n = values.length;
  if (!n) return;
  const most = Math.max(...values, 1e-9), step = width / 80;
  c.fillStyle = css("--c2");
  values.slice(-80).forEach((v, i, all) => {
    const h = Math.max(1, (height - 16) * v / most);
    c.fillRect(width - (all.length - i) * step, height - h, Math.max(1, step - 1), h);
  });
  c.fillStyle = css("--soft");
  c.font = font(12);
  c.fillText(`last ${Math.min(80, n)} steps, at most ${most < 10 ? most.toFixed(1) : Math.round(most)} ${unit}`, 8, 13);
}
