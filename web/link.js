// The connection: messages come in by type, commands go out. It comes back by itself when the program does.

export const WIDTH = 240, HEIGHT = 160;

export class Link {
  constructor(handlers) {
    this.handlers = handlers;
    this.pending = [];
    this.tries = 0;
    this.open();
  }

  open() {
    const socket = new WebSocket(`ws://${location.host}/live`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => { this.tries = 0; this.handlers.state?.(true); };
    socket.onclose = () => {
      this.handlers.state?.(false);
      this.tries++;
      setTimeout(() => this.open(), Math.min(5000, 250 * 2 ** this.tries));
    };
    socket.onmessage = (event) => this.take(event.data);
  }

  take(data) {
    if (data instanceof ArrayBuffer) {
      this.handlers.picture?.(data);
      return;
    }
    let message;
    try { message = JSON.parse(data); } catch { return; }
    this.handlers[message.type]?.(message);
  }

  send(what, more) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ do: what, ...more }));
  }
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** A picture message: {game, frame, image}; image is null for "as before". */
export async function decodePicture(buffer) {
  const head = new DataView(buffer), kind = head.getUint8(0), game = head.getUint8(1), colours = head.getUint16(2, true), frame = head.getUint32(4, true);
  if (kind === 0) return { game, frame, image: null };
  const raw = await inflate(new Uint8Array(buffer, 8));
  const image = new ImageData(WIDTH, HEIGHT), out = new Uint32Array(image.data.buffer);
  if (kind === 1) {
    const palette = new Uint32Array(256);
    for (let i = 0; i < colours; i++) palette[i] = 0xff000000 | raw[3 * i + 2] << 16 | raw[3 * i + 1] << 8 | raw[3 * i];
    for (let i = 0, at = 3 * colours; i < out.length; i++) out[i] = palette[raw[at + i]];
  } else {
    for (let i = 0; i < out.length; i++) out[i] = 0xff000000 | raw[3 * i + 2] << 16 | raw[3 * i + 1] << 8 | raw[3 * i];
  }
  return { game, frame, image };
}

export async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message || `${answer.status}`);
  return answer.json();
}

export async function fetchPicture(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json().catch(() => null))?.error?.message || `${answer.status}`);
  return decodePicture(await answer.arrayBuffer());
}
