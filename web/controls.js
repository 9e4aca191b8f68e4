// Buttons, keys and the note.

const $ = (id) => document.getElementById(id);
const KEYS = { ArrowUp: 64, ArrowLeft: 32, ArrowRight: 16, ArrowDown: 128, KeyX: 1, KeyZ: 2, KeyA: 512, KeyS: 256, Enter: 8, Backspace: 4 };

export class Controls {
  constructor(link, view) {
    this.link = link;
    this.view = view; /* recorded: where "Play" starts from */
    this.keys = new Set();
    this.paused = this.driving = false;
    $("pause").onclick = () => this.pause();
    $("step").onclick = () => {
      if (view.startFrom() >= 0) link.send("seek", { index: view.startFrom() });
      link.send("step");
    };
    $("speed").onchange = (e) => link.send("speed", { times: Number(e.target.value) });
    $("drive").onclick = () => link.send("take_over", { on: !this.driving });
    $("note-form").onsubmit = (e) => {
      e.preventDefault();
      link.send("note", { text: $("note").value });
      $("note").value = "";
    };
    addEventListener("keydown", (e) => this.key(e, true));
    addEventListener("keyup", (e) => this.key(e, false));
    addEventListener("blur", () => this.release());
    for (const b of document.querySelectorAll("[data-key]")) this.padButton(b);
  }

  pause() {
    if (this.paused && this.view.startFrom() >= 0) this.link.send("seek", { index: this.view.startFrom() });
    this.link.send(this.paused ? "resume" : "pause");
  }

  hello(message, client) {
    this.client = client;
    const can = new Set(message.can);
    $("pause").disabled = !can.has("pause");
    $("step").disabled = !can.has("step");
    $("speed").disabled = !can.has("speed");
    $("drive").disabled = !can.has("take_over");
    $("drive").hidden = !can.has("take_over");
    $("note-form").hidden = !can.has("note");
  }

  status(s, game) {
    const of = s.control?.[game];
    this.paused = !!s.paused;
    this.driving = s.driver === this.client && !!s.driver;
    $("pause").textContent = this.paused ? (this.view.recorded() ? "Play" : "Resume") : "Pause";
    $("drive").textContent = this.driving ? "Hand back" : "Take over";
    $("drive").setAttribute("aria-pressed", String(this.driving));
    $("drive").disabled = $("drive").hidden || (!!s.driver && !this.driving);
    $("pad").hidden = !this.driving;
    const speed = String(s.speed);
    if ([...$("speed").options].some((o) => o.value === speed)) $("speed").value = speed;
    $("note-now").textContent = of?.note ? `in every prompt now: ${of.note}` : "no note is set; an empty one clears it";
    if (!this.driving) this.release();
    return of?.human ? "human" : this.paused ? "paused" : "live";
  }

  key(event, down) {
    const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
    if (this.driving && !typing) {
      if (event.code === "Escape" && down) {
        this.link.send("take_over", { on: false });
        return;
      }
      const bit = KEYS[event.code];
      if (bit === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      if (!event.repeat) this.press(bit, down);
      return;
    }
    if (typing || !down || event.target.tagName === "BUTTON" || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.code === "Space" && !$("pause").disabled) { event.preventDefault(); this.pause(); }
    if (event.code === "Period" && !$("step").disabled) $("step").click();
  }

  padButton(button) {
    const bit = Number(button.dataset.key);
    const hold = (down) => (e) => { e.preventDefault(); button.classList.toggle("held", down); this.press(bit, down); };
    button.addEventListener("pointerdown", hold(true));
    for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, (e) => { if (this.keys.has(bit)) hold(false)(e); });
    button.addEventListener("keydown", (e) => { if (e.code === "Space" || e.code === "Enter") { e.stopPropagation(); hold(true)(e); } });
    button.addEventListener("keyup", (e) => { if (e.code === "Space" || e.code === "Enter") { e.stopPropagation(); hold(false)(e); } });
  }

  press(bit, down) {
    if (!this.driving || this.keys.has(bit) === down) return;
    if (down) this.keys.add(bit); else this.keys.delete(bit);
    this.link.send("keys", { keys: [...this.keys].reduce((a, b) => a | b, 0) });
  }

  release() {
    if (!this.keys.size) return;
    this.keys.clear();
    for (const b of document.querySelectorAll(".pad .held")) b.classList.remove("held");
    this.link.send("keys", { keys: 0 });
  }
}
