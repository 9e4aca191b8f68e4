// The game's screen: pictures as they come, each pixel a whole number of the display's.
import { WIDTH, HEIGHT } from "./link.js";

export class Screen {
  constructor(canvas, onRate) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.shown = 0;
    this.counted = performance.now();
    new ResizeObserver(() => this.fit()).observe(canvas.parentElement);
    this.fit();
    setInterval(() => {
      const now = performance.now();
      onRate(this.shown * 1000 / (now - this.counted));
      this.shown = 0;
      this.counted = now;
    }, 1000);
  }

  fit() {
    const ratio = devicePixelRatio || 1, room = this.canvas.parentElement.clientWidth * ratio;
    const times = Math.max(1, Math.floor(room / WIDTH));
    this.canvas.style.width = `${WIDTH * times / ratio}px`;
    this.canvas.style.height = `${HEIGHT * times / ratio}px`;
  }

  show(picture) {
    this.shown++;
    this.canvas.dataset.frame = picture.frame;
    if (picture.image) this.context.putImageData(picture.image, 0, 0);
  }
}
