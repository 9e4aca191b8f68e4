// All steps so far: rows for the plot, and a slider that shows any of them.
import { fetchJson, fetchPicture } from "./link.js";
import { drawLanes } from "./charts.js";

const $ = (id) => document.getElementById(id);

export class Timeline {
  constructor(onStep, onPast) {
    this.rows = [];
    this.at = -1;
    this.past = false; /* a step of the past is shown, not the newest */
    this.onStep = onStep;
    this.onPast = onPast;
    $("scrub").addEventListener("input", () => this.scrub(Number($("scrub").value)));
    $("newest").addEventListener("click", () => this.now());
    $("lanes").addEventListener("click", (e) => {
      const box = $("lanes").getBoundingClientRect(), share = (e.clientX - box.left - 14) / (box.width - 28);
      if (this.rows.length) this.scrub(Math.round(Math.max(0, Math.min(1, share)) * (this.rows.length - 1)));
    });
    addEventListener("resize", () => this.draw());
    addEventListener("themechange", () => this.draw());
  }

  async start(game, recorded) {
    this.game = game;
    this.recorded = recorded;
    this.rows = [];
    this.past = recorded;
    this.at = recorded ? 0 : -1;
    await this.fill();
    if (recorded && this.rows.length) this.scrub(0);
  }

  /** Rows that are not here yet. */
  async fill() {
    if (this.filling) return;
    this.filling = true;
    try {
      for (;;) {
        const game = this.game, answer = await fetchJson(`/api/history?game=${game}&from=${this.rows.length}`);
        if (game !== this.game) continue;
        for (const r of answer.rows) this.rows.push(Object.fromEntries(answer.columns.map((name, i) => [name, r[i]])));
        if (!answer.rows.length || this.rows.length >= answer.count) break;
      }
    } catch { /* the next step asks again */ }
    this.filling = false;
    this.draw();
  }

  take(step) {
    if (step.index > this.rows.length) this.fill();
    if (step.index === this.rows.length && !this.filling) {
      const t = step.ms || {}, count = (v) => (Array.isArray(v) ? v.length : 0);
      this.rows.push({
        episode: step.episode, step: step.step, floor: step.floor || 0, hp: step.hp || 0, max_hp: step.max_hp || 0, belly: step.belly || 0,
        confidence: step.confidence || 0, total_ms: t.total || 0, ask_ms: t.ask || 0, image_ms: t.image || 0, prefill_ms: t.prefill || 0,
        generate_ms: t.generate || 0, emulator_ms: t.emulator || 0, prompt_tokens: count(step.prompt_tokens) + (step.prompt_from || 0), cached_tokens: step.cached_tokens || 0,
        answer_tokens: count(step.answer_tokens), decided_by: step.decided_by, action: step.action,
      });
    }
    if (!this.past) this.at = step.index;
    this.later();
  }

  /** Drawing now and then is enough, however many steps come. */
  later() {
    if (this.due) return;
    this.due = true;
    setTimeout(() => { this.due = false; this.draw(); }, 100);
  }

  draw() {
    const n = this.rows.length, slider = $("scrub");
    slider.max = String(Math.max(0, n - 1));
    slider.disabled = !n;
    if (this.at >= n) this.at = n - 1;
    slider.value = String(Math.max(0, this.at));
    const r = this.rows[this.at];
    $("time-note").textContent = r ? `step ${this.at + 1} of ${n}: HP ${r.hp} of ${r.max_hp}, belly ${r.belly}, floor ${r.floor}` : "no step yet";
    slider.setAttribute("aria-valuetext", r ? `step ${this.at + 1} of ${n}, floor ${r.floor}, HP ${r.hp} of ${r.max_hp}` : "no step yet");
    $("newest").hidden = !this.past || this.recorded;
    drawLanes($("lanes"), this.rows, this.at);
  }

  /** Shows a step of the past; the newest wish wins when the slider runs ahead of the answers. */
  async scrub(index) {
    this.at = index;
    this.past = true;
    this.onPast(true);
    this.later();
    this.wish = index;
    if (this.busy) return;
    this.busy = true;
    while (this.wish !== null) {
      const now = this.wish;
      this.wish = null;
      try {
        const where = `game=${this.game}&index=${now}`;
        const [step, picture] = await Promise.all([fetchJson(`/api/step?${where}`), fetchPicture(`/api/picture?${where}`)]);
        if (this.past) this.onStep(step, picture);
      } catch (e) {
        this.onStep(null, null, e.message);
      }
    }
    this.busy = false;
  }

  now() {
    this.past = false;
    this.wish = null;
    this.at = this.rows.length - 1;
    this.onPast(false);
    this.later();
  }
}
