// The page: what comes in goes to the parts that show it.
import { Link, decodePicture } from "./link.js";
import { Screen } from "./screen.js";
import { FloorMap } from "./map.js";
import { Controls } from "./controls.js";
import { Timeline } from "./timeline.js";
import { Wall } from "./wall.js";
import { addToken, showDecision, showNumbers, showParty, showPrompt, showStatus, words } from "./panels.js";

const $ = (id) => document.getElementById(id);
const page = { hello: null, game: 0, wall: null, plan: null, spoken: 0, toast: 0 };

const screen = new Screen($("screen"), (rate) => { $("fps").textContent = `${rate.toFixed(0)} frames/s`; });
const map = new FloorMap($("map"));
const timeline = new Timeline(showPast, onPast);
const link = new Link({ state, hello, status, step, world, token, episode, refused, picture });
const controls = new Controls(link, {
  recorded: () => !!page.hello?.recorded,
  startFrom: () => (page.hello?.recorded && timeline.past ? timeline.at : -1),
});

function toast(text) {
  $("toast").textContent = text;
  $("toast").hidden = false;
  clearTimeout(page.toast);
  page.toast = setTimeout(() => { $("toast").hidden = true; }, 5000);
}

function setState(kind, text) {
  $("state").dataset.kind = kind;
  $("state").textContent = text;
}

/* ---- messages ---- */

function state(connected) {
  if (!connected) setState("lost", page.hello ? "connection lost" : "connecting");
}

async function hello(m) {
  page.hello = m;
  $("title").textContent = m.title || "pmd-agent";
  document.title = m.title ? `${m.title}: pmd-agent` : "pmd-agent";
  $("subtitle").textContent = [m.recorded ? "recorded run" : "playing now", m.about?.policy === "model" ? null : m.about?.policy, m.about?.run, m.about?.note].filter(Boolean).join(" · ");
  if (m.about && !m.about.label) m.about.label = m.title;
  controls.hello(m, m.client);
  if (m.games > 1) {
    page.wall = new Wall($("wall"), m.games, openGame);
    $("to-wall").hidden = false;
    showWall();
  } else {
    await openGame(0);
  }
}

function status(m) {
  page.status = m;
  const kind = controls.status(m, page.game);
  showStatus(m);
  if (page.hello?.recorded && !m.paused && timeline.past && kind === "live") timeline.past = false;
  const text = { human: controls.driving ? "you play" : "a person plays", paused: "paused", live: page.hello?.recorded ? "playing the record" : "live" }[kind];
  setState(kind === "live" && timeline.past && !page.hello?.recorded ? "paused" : kind, timeline.past && !page.hello?.recorded ? "looking back" : text);
}

function step(m) {
  page.wall?.step(m);
  if (m.game !== page.game || page.onWall) return;
  timeline.take(m);
  if (timeline.past) return;
  page.newest = m;
  page.fresh = true;
  later();
}

/** What comes in faster than anybody reads is shown eight times a second; the pictures have the rest of the time. */
function later() {
  if (page.due) return;
  page.due = setTimeout(() => {
    page.due = 0;
    if (timeline.past) return;
    if (page.fresh) showStep(page.newest); else if (page.world) showWorld();
    page.fresh = false;
  }, 120);
}

/** While something is done that takes many turns. */
function world(m) {
  if (m.game !== page.game || page.onWall || timeline.past) return;
  page.world = m.world;
  later();
}

function showWorld() {
  map.show(page.world, page.plan, `${page.newest?.episode}/${page.world.floor}`, -1);
  showParty(page.world);
  showWhere(page.world);
}

function token(m) {
  if (m.game === page.game && !timeline.past) addToken(m);
}

function episode(m) {
  page.wall?.episode(m);
  if (m.game !== page.game) return;
  if (m.event === "planned") {
    page.plan = m.details;
    if (!timeline.past && page.world) later();
    $("key-path").hidden = !m.details?.path?.length;
  }
  if (m.event === "done") {
    const d = m.details || {};
    speak(d.outcome === "cleared" ? `Dungeon cleared in ${d.turns} turns.` : `Episode over: ${d.cause || d.outcome}.`, true);
    toast(d.outcome === "cleared" ? `Cleared: ${d.turns} turns, ${d.decisions} decisions` : `Over: ${d.cause || d.outcome}`);
  }
}

function refused(m) { toast(String(m.why)); }

/** Decoding is asynchronous: pictures are shown in the order in which they came. */
let chain = Promise.resolve();
function picture(data) {
  const decoded = decodePicture(data);
  chain = chain.then(async () => {
    const p = await decoded;
    if (page.wall && page.onWall) page.wall.picture(p);
    else if (p.game === page.game && !timeline.past) screen.show(p);
  }).catch(() => { /* a broken picture is left out */ });
}

/* ---- showing ---- */

function showStep(m) {
  const world = m.world;
  showDecision(m, page.hello?.about);
  showPrompt(m);
  showNumbers(m, timeline.rows.slice(0, m.index + 1));
  showParty(!timeline.past && page.world ? page.world : world);
  const plan = timeline.past ? m.plan : page.plan;
  const fresh = !timeline.past && page.world?.ground ? page.world : world; /* live, a newer one than the decision's may be there */
  map.show(fresh, plan, `${m.episode}/${fresh?.floor}`, timeline.past || page.hello?.recorded ? m.index : -1);
  $("key-path").hidden = !plan?.path?.length;
  if (world?.floor) showWhere(fresh); else $("where").textContent = words(m.scene);
  $("screen").setAttribute("aria-label", `The game's screen, step ${m.step}: ${words(m.scene)}`);
  speak(`Step ${m.step}: ${words(m.action)}, decided by ${m.decided_by}. HP ${m.hp ?? "unknown"} of ${m.max_hp ?? "unknown"}, floor ${m.floor ?? "unknown"}.`, false);
}

function showWhere(w) {
  $("where").textContent = w?.floor ? `${w.dungeon || "dungeon"}, B${w.floor}F${w.floors ? ` of ${w.floors}` : ""}, ${w.turns_left} turns left` : "";
}

function showPast(m, picture, problem) {
  if (problem) return toast(problem);
  showStep(m);
  screen.show(picture);
}

function onPast() {
  if (page.hello?.recorded && !controls.paused) link.send("pause");
  if (!timeline.past && page.newest) showStep(page.newest);
  if (page.status) status(page.status);
}

/** For screen readers: at most one sentence in six seconds. */
function speak(text, urgent) {
  const now = performance.now();
  if (!urgent && now - page.spoken < 6000) return;
  page.spoken = now;
  $("live").textContent = text;
}

/* ---- which game ---- */

async function openGame(game) {
  page.game = game;
  page.onWall = false;
  page.newest = page.plan = page.world = null;
  page.fresh = false;
  $("wall").hidden = true;
  $("game").hidden = false;
  link.send("watch", { game: document.hidden ? -2 : game });
  await timeline.start(game, page.hello.recorded);
}

function showWall() {
  page.onWall = true;
  $("wall").hidden = false;
  $("game").hidden = true;
  link.send("watch", { game: -1 });
}

$("to-wall").onclick = showWall;
$("fog").onclick = () => {
  map.hidden = !map.hidden;
  $("fog").setAttribute("aria-pressed", String(map.hidden));
  map.draw();
};
document.addEventListener("visibilitychange", () => {
  if (page.hello) link.send("watch", { game: document.hidden ? -2 : page.onWall ? -1 : page.game });
});
