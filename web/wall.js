// Several games as tiles; a tile opens its game.
import { WIDTH, HEIGHT } from "./link.js";
import { make, words } from "./panels.js";

export class Wall {
  constructor(root, count, onOpen) {
    this.tiles = Array.from({ length: count }, (_, i) => {
      const canvas = make("canvas", { width: WIDTH, height: HEIGHT, role: "img", "aria-label": `Screen of game ${i + 1}` });
      const name = make("b", {}, `Game ${i + 1}`), where = make("span", { class: "soft" }, "starting"), did = make("span", {}, ""), hp = make("span", { class: "soft" }, "");
      const fill = make("i"), bar = make("span", { class: "bar" }, fill);
      const button = make("button", { type: "button", class: "tile" }, canvas, make("span", { class: "line" }, name, where), make("span", { class: "line" }, did, hp), bar);
      button.onclick = () => onOpen(i);
      return { button, where, did, hp, fill, context: canvas.getContext("2d", { alpha: false }), canvas };
    });
    root.replaceChildren(...this.tiles.map((t) => t.button));
  }

  picture(p) {
    const t = this.tiles[p.game];
    if (!t) return;
    t.canvas.dataset.frame = p.frame;
    if (p.image) t.context.putImageData(p.image, 0, 0);
  }

  step(s) {
    const t = this.tiles[s.game];
    if (!t) return;
    t.where.textContent = s.floor ? `B${s.floor}F, step ${s.step}` : `step ${s.step}`;
    t.did.textContent = words(s.action);
    t.hp.textContent = s.max_hp ? `HP ${s.hp} of ${s.max_hp}` : "";
    t.fill.style.width = s.max_hp ? `${100 * s.hp / s.max_hp}%` : "0";
  }

  episode(m) {
    const t = this.tiles[m.game];
    if (t && m.event === "done") t.did.textContent = m.details?.outcome === "cleared" ? "cleared" : m.details?.cause || m.details?.outcome || "";
  }
}
