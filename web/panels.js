// What is known of a step, in words. Everything that comes from the game, the model or a file is set as text, never as markup.
import { drawSpark } from "./charts.js";

const $ = (id) => document.getElementById(id);

/** An element with text and children. */
export function make(tag, attributes = {}, ...inside) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k === "class") e.className = v;
    else if (k.startsWith("data-") || k.startsWith("aria-") || k === "role" || k === "title" || k === "alt" || k === "type") e.setAttribute(k, v);
    else e[k] = v;
  }
  e.append(...inside.map((i) => (i instanceof Node ? i : document.createTextNode(String(i)))));
  return e;
}

export const words = (name) => String(name ?? "").replace(/_/g, " ").replace(/\b(north|south|east|west)?(ne|se|sw|nw)\b/g, (m, a, b) =>
  ({ ne: "north-east", se: "south-east", sw: "south-west", nw: "north-west" })[b] || m);
const ms = (v) => v >= 1000 ? `${(v / 1000).toFixed(2)} s` : v >= 100 ? `${Math.round(v)} ms` : `${v.toFixed(v < 10 ? 2 : 1)} ms`;
const bytes = (v) => v >= 2 ** 30 ? `${(v / 2 ** 30).toFixed(2)} GiB` : v >= 2 ** 20 ? `${(v / 2 ** 20).toFixed(1)} MiB` : `${(v / 1024).toFixed(0)} KiB`;
const percent = (v) => (v > 0.995 && v < 1 ? `${(Math.floor(1000 * v) / 10).toFixed(1)} %` : `${Math.round(100 * v)} %`);

export function facts(list, pairs) {
  list.replaceChildren(...pairs.filter(([, v]) => v !== null && v !== undefined && v !== "").flatMap(([k, v]) => [make("dt", {}, k), make("dd", {}, v)]));
}

function meter(share, kind = "") {
  const fill = make("i");
  fill.style.width = `${Math.max(0, Math.min(100, 100 * share))}%`;
  return make("div", { class: `bar ${kind}` }, fill);
}

/* ---- the answer ---- */

function token([text, p, forced]) {
  const known = typeof p === "number" && p >= 0;
  const e = make("span", { class: forced ? "token forced" : "token" }, text);
  if (known && !forced) e.dataset.sure = p >= 0.9 ? "high" : p >= 0.5 ? "middle" : "low";
  e.title = forced ? "nothing else was allowed here" : known ? `${percent(p)} sure` : "";
  return e;
}

export function addToken(message) {
  const box = $("answer");
  if (box.dataset.of !== "stream") {
    box.dataset.of = "stream";
    box.replaceChildren();
  }
  box.append(token([message.text, message.p, message.forced]));
}

function showAnswer(step) {
  const box = $("answer");
  box.dataset.of = "step";
  const pieces = Array.isArray(step.answer_pieces) ? step.answer_pieces : step.answer ? [[step.answer]] : [];
  box.replaceChildren(...pieces.filter(Array.isArray).map(token));
}

/* ---- the decision ---- */

export function showDecision(step, about) {
  $("decision-number").textContent = `episode ${step.episode}, step ${step.step}`;
  $("action").textContent = words(step.action) || "none yet";
  const by = $("by");
  by.textContent = step.decided_by ? `decided by ${step.decided_by === "human" ? "you or another person" : `the ${step.decided_by}`}` : "";
  if (step.decided_by === "random") by.textContent = "decided by chance";
  by.dataset.by = step.decided_by || "";
  $("scene").textContent = step.scene ? `scene: ${words(step.scene)}` : "";
  const sure = step.confidence > 0;
  $("sure").hidden = !sure;
  if (sure) {
    $("sure-bar").style.width = `${100 * step.confidence}%`;
    $("sure-text").textContent = `${percent(step.confidence)} sure`;
  }
  $("reason").textContent = step.reason || "";
  showAnswer(step);
  const model = step.model || {}, of = typeof model === "string" ? { name: model } : model, a = about?.model;
  facts($("model"), [
    ["in use", of.name || about?.label], ["why", of.why || step.route_reason],
    ["weights", a?.storage ? `${a.storage}, ${(a.parameters / 1e6).toFixed(1)} M parameters` : null], ["runs on", a?.device ? `${a.device} (${a.kernels})` : a?.server],
  ]);
  const extra = [];
  const add = (name, value) => { if (value !== null && value !== undefined && value !== "" && value !== 0) extra.push([name, value]); };
  add("skill", step.plan?.skill || step.skill);
  add("skill ended", step.skill_end);
  add("stuck", step.stuck ? `${words(step.stuck)}${step.stuck_level ? `, rung ${step.stuck_level}` : ""}` : null);
  add("refused", step.refused);
  add("scratchpad", step.note);
  for (const v of Array.isArray(step.votes) ? step.votes : []) add(`voted ${words(v.action || v.text || "")}`, [v.count > 0 ? `${v.count} ×` : "", v.probability > 0 ? percent(v.probability) : ""].join(" "));
  add("the oracle would", words(step.oracle_action));
  const list = make("dl", { class: "facts" });
  facts(list, extra);
  $("extra").replaceChildren(...(extra.length ? [make("h3", {}, "Also"), list] : []));
}

/* ---- the prompt and memory ---- */

export function showPrompt(step) {
  const box = $("prompt"), tokens = Array.isArray(step.prompt_tokens) ? step.prompt_tokens.length + (step.prompt_from || 0) : step.prompt_tokens;
  $("prompt-note").textContent = tokens ? `${tokens} tokens, ${step.cached_tokens || 0} from the cache` : "";
  if (!step.prompt) {
    box.replaceChildren(make("span", { class: "soft" }, step.decided_by === "human" ? "A person played this step." : "No model was asked in this step."));
  } else {
    const parts = [];
    if (step.system) parts.push(make("span", { class: "role" }, "system"), make("span", { class: "part" }, step.system));
    parts.push(make("span", { class: "role" }, "user: the picture, then"));
    const cut = step.prompt.lastIndexOf("\nnote ");
    const user = make("span", { class: "part" }, cut < 0 ? step.prompt : step.prompt.slice(0, cut));
    if (cut >= 0) user.append(make("span", { class: "added" }, step.prompt.slice(cut)));
    box.replaceChildren(...parts, user);
  }
  const hits = step.memory || step.recalled, list = Array.isArray(hits) ? hits : hits?.lines || hits?.hits || [];
  $("memory").hidden = !list.length;
  $("hits").replaceChildren(...list.slice(0, 12).map(hit));
}

function hit(h) {
  const where = h.from ?? [h.run, h.episode > 0 ? `episode ${h.episode}` : "", h.step > 0 ? `step ${h.step}` : ""].filter(Boolean).join(", ");
  const text = make("div", {}, make("div", {}, h.text ?? "recalled"), make("div", { class: "from" }, [where, h.silo, h.similarity > 0 ? `similarity ${Number(h.similarity).toFixed(2)}` : null].filter(Boolean).join(", ")));
  const picture = typeof h.picture === "string" && /^data:image\/(png|jpeg);base64,[A-Za-z0-9+/=]+$/.test(h.picture) ? h.picture : null;
  return picture ? make("li", {}, make("img", { src: picture, alt: "remembered picture" }), text) : make("li", {}, text);
}

/* ---- numbers ---- */

const PARTS = [["image", "picture", "--c4"], ["prefill", "prompt", "--c2"], ["generate", "answer", "--c1"], ["recall", "memory", "--c3"], ["emulator", "emulator", "--c6"], ["rest", "rest", "--c5"]];

function split(step) {
  const t = step.ms || {}, of = {
    image: t.image || 0, prefill: t.prefill || 0, generate: t.generate || 0, recall: t.recall || t.retrieval || 0,
    emulator: t.emulator ?? Math.max(0, (t.act || 0)), rest: 0,
  };
  of.rest = Math.max(0, (t.total || 0) - Object.values(of).reduce((a, b) => a + b, 0));
  return of;
}

export function showNumbers(step, rows) {
  const of = split(step), total = Object.values(of).reduce((a, b) => a + b, 0) || 1;
  $("step-ms").textContent = step.ms?.total ? `${ms(step.ms.total)} this step` : "";
  const shown = PARTS.filter(([k]) => of[k] > 0);
  $("split").replaceChildren(...shown.map(([k, , colour]) => {
    const bar = make("i");
    bar.style.background = `var(${colour})`;
    bar.style.flexGrow = String(of[k] / total);
    return bar;
  }));
  $("split").setAttribute("aria-label", "Time split of the step: " + shown.map(([k, name]) => `${name} ${percent(of[k] / total)}`).join(", "));
  $("split-key").replaceChildren(...shown.map(([k, name, colour]) => {
    const li = make("li", {}, `${name} `, make("b", {}, ms(of[k])));
    li.style.setProperty("--of", `var(${colour})`);
    return li;
  }));
  const last = rows.slice(-30), sum = (k) => last.reduce((a, r) => a + (r[k] || 0), 0);
  const computed = sum("prompt_tokens") - sum("cached_tokens");
  facts($("rates"), [
    ["answer", sum("generate_ms") > 0 ? `${(1000 * sum("answer_tokens") / sum("generate_ms")).toFixed(0)} tokens/s` : null],
    ["prompt", sum("prefill_ms") + sum("image_ms") > 0 ? `${(1000 * computed / (sum("prefill_ms") + sum("image_ms"))).toFixed(0)} tokens/s` : null],
    ["decisions", last.length && sum("total_ms") > 0 ? `${(1000 * last.length / sum("total_ms")).toFixed(1)} a second` : null],
    ["prompt from cache", sum("prompt_tokens") > 0 ? percent(sum("cached_tokens") / sum("prompt_tokens")) : null],
  ]);
  drawSpark($("spark"), rows.slice(-80).map((r) => r.total_ms || 0), "ms");
}

const rate = (hits, misses) => hits + misses > 0 ? hits / (hits + misses) : null;

/** Caches and memory: what changes by itself, once a second. */
export function showStatus(status) {
  const c = status.cache, levels = [];
  if (c) {
    for (const l of Array.isArray(c.levels) ? c.levels : []) levels.push([l.name, rate(l.hits, l.misses)]);
    levels.push(["picture features", rate(c.images_reused, c.images_encoded)]);
  }
  $("caches-part").hidden = !c;
  $("caches").replaceChildren(...levels.map(([name, share]) => make("div", {}, make("dt", {}, name), make("dd", {}, share === null ? "not asked yet" : percent(share)), meter(share || 0))));
  facts($("memory-use"), [
    ["program", status.resident_bytes ? bytes(status.resident_bytes) : null], ["weights (mapped)", status.memory?.weights ? bytes(status.memory.weights) : null],
    ["engine", status.memory?.engine ? bytes(status.memory.engine) : null], ["prompt pages, host", status.memory?.host_pages ? bytes(status.memory.host_pages) : null], ["prompt pages, disk", status.memory?.disk_pages ? bytes(status.memory.disk_pages) : null],
    ["KV pages", c?.pages_total ? `${c.pages_used} of ${c.pages_total}` : null],
    ["processor", status.process_cpu ? `${percent(status.process_cpu)} of one core` : null],
  ]);
}

/* ---- team, bag, log ---- */

export function showParty(world) {
  const team = world?.team || [];
  $("team").replaceChildren(...team.map((m) => {
    const li = make("li", {}, make("span", { class: "who" }, `${m.name}${m.leader ? " (leader)" : ""}`), make("span", { class: "soft" }, `level ${m.level ?? "?"}`));
    if (m.max_hp) li.append(make("span", {}, `HP ${m.hp} of ${m.max_hp}`), make("span", { class: "soft" }, (m.statuses || []).join(", ")), meter(m.hp / m.max_hp));
    if (m.max_belly) li.append(make("span", {}, `belly ${m.belly} of ${m.max_belly}`), make("span"), meter(m.belly / m.max_belly, "food"));
    return li;
  }));
  $("bag").replaceChildren(...(world?.bag || []).map((t) => make("li", {}, t.quantity > 1 ? `${t.name} × ${t.quantity}` : t.name)));
  if (world?.bag && !world.bag.length) $("bag").append(make("li", { class: "soft" }, "the bag is empty"));
  $("money").textContent = world?.money ? `${world.money} in the purse` : "";
  const said = [...(world?.log || []), ...(world?.dialogue ? [world.dialogue] : [])];
  $("log").replaceChildren(...(said.length ? said : ["nothing yet"]).map((t) => make("li", {}, t)));
}
