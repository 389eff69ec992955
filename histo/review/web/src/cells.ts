// Tiles of cells as the server packs them (see overlay.py), and keeping those that were looked at last.

import { getBytes, slidePath } from "./api";

export const IN_TISSUE = 1;
export const DELETED = 2;
export const ADDED = 8;
export const UNKNOWN = 255;
const VERTEX_UM = 1 / 64;

/** Cells of a tile (with ids and outlines) or of a block (without). Positions are um from the slide's corner. */
export interface Tile {
  n: number;
  id: Int32Array | null;
  x: Float32Array;
  y: Float32Array;
  isCd8: Uint8Array;
  probability: Uint8Array;
  zone: Uint8Array;
  flags: Uint8Array;
  positive: Uint8Array;
  /** Where a cell's outline begins in `vertices` (pairs); n + 1 long. */
  first: Int32Array | null;
  vertices: Int16Array | null;
  /** What was drawn of it, by how it was to look. */
  drawn: Map<string, unknown>;
}

function unpackOutlines(data: ArrayBuffer, left: number, top: number): Tile {
  const [n, m] = new Uint32Array(data, 0, 2);
  let at = 8;
  const id = new Int32Array(data, at, n);
  const x = new Float32Array(data, (at += 4 * n), n);
  const y = new Float32Array(data, (at += 4 * n), n);
  at += 4 * n;
  const bytes = () => new Uint8Array(data, (at += n) - n, n);
  const [isCd8, probability, zone, flags, positive, count] = [bytes(), bytes(), bytes(), bytes(), bytes(), bytes()];
  const first = new Int32Array(n + 1);
  for (let k = 0; k < n; k++) first[k + 1] = first[k] + count[k];
  const vertices = new Int16Array(data, at, 2 * m);
  for (let k = 0; k < n; k++) {
    x[k] += left;
    y[k] += top;
  }
  return { n, id, x, y, isCd8, probability, zone, flags, positive, first, vertices, drawn: new Map() };
}

function unpackPoints(data: ArrayBuffer, left: number, top: number, edge: number): Tile {
  const [n] = new Uint32Array(data, 0, 1);
  let at = 4;
  const px = new Uint16Array(data, at, n);
  const py = new Uint16Array(data, (at += 2 * n), n);
  at += 2 * n;
  const bytes = () => new Uint8Array(data, (at += n) - n, n);
  const [isCd8, probability, zone, flags, positive] = [bytes(), bytes(), bytes(), bytes(), bytes()];
  const x = new Float32Array(n);
  const y = new Float32Array(n);
  const step = edge / 65536;
  for (let k = 0; k < n; k++) {
    x[k] = left + (px[k] + 0.5) * step;
    y[k] = top + (py[k] + 0.5) * step;
  }
  return { n, id: null, x, y, isCd8, probability, zone, flags, positive, first: null, vertices: null, drawn: new Map() };
}

/** Add the outline of cell `k` to a path, in um from (left, top). */
export function trace(path: Path2D, tile: Tile, k: number, left: number, top: number): void {
  const { first, vertices } = tile;
  const [x, y] = [tile.x[k] - left, tile.y[k] - top];
  if (first === null || vertices === null || first[k] === first[k + 1]) {
    // A cell that a reviewer added has a place and no outline.
    path.moveTo(x + 5, y);
    path.arc(x, y, 5, 0, 2 * Math.PI);
    return;
  }
  for (let v = first[k]; v < first[k + 1]; v++) {
    const [vx, vy] = [x + vertices[2 * v] * VERTEX_UM, y + vertices[2 * v + 1] * VERTEX_UM];
    if (v === first[k]) path.moveTo(vx, vy);
    else path.lineTo(vx, vy);
  }
  path.closePath();
}

interface Held {
  revision: string;
  tile: Tile | null;
  wanted: string | null;
}

export class TileStore {
  private held = new Map<string, Held>();
  private fetching = 0;
  private waiting: (() => void)[] = [];

  constructor(
    private key: string,
    private kind: "outlines" | "points",
    readonly edge: number,
    private size: [number, number],
    private keep: number,
    private arrived: () => void,
    private failed: (error: unknown) => void,
  ) {}

  /** Whether a tile is on its way. */
  get busy(): boolean {
    return this.fetching > 0;
  }

  /** Return the tiles under a box in um that are here; ask for the others and for those that are outdated. */
  under(box: [number, number, number, number], revision: string): { tile: Tile; left: number; top: number }[] {
    const found = [];
    const last = (size: number) => Math.max(0, Math.ceil(size / this.edge) - 1);
    const columns = range(box[0], box[2], this.edge, last(this.size[0]));
    const rows = range(box[1], box[3], this.edge, last(this.size[1]));
    for (const row of rows) {
      for (const column of columns) {
        const name = `${column}_${row}`;
        let held = this.held.get(name);
        if (held === undefined) held = { revision: "", tile: null, wanted: null };
        // The last used is last in the map.
        this.held.delete(name);
        this.held.set(name, held);
        if (held.revision !== revision && held.wanted !== revision) void this.fetch(column, row, held, revision);
        if (held.tile !== null) found.push({ tile: held.tile, left: column * this.edge, top: row * this.edge });
      }
    }
    while (this.held.size > Math.max(this.keep, rows.length * columns.length)) this.held.delete(this.held.keys().next().value!);
    return found;
  }

  private async fetch(column: number, row: number, held: Held, revision: string): Promise<void> {
    held.wanted = revision;
    if (this.fetching >= 4) await new Promise<void>((go) => this.waiting.push(go));
    this.fetching += 1;
    try {
      const path = `${slidePath(this.key)}/cells/${this.kind}/${column}_${row}.bin?r=${revision}`;
      const data = await getBytes(path);
      const [left, top] = [column * this.edge, row * this.edge];
      held.tile = this.kind === "outlines" ? unpackOutlines(data, left, top) : unpackPoints(data, left, top, this.edge);
      held.revision = revision;
    } catch (error) {
      this.failed(error);
      await new Promise((go) => setTimeout(go, 2000));
    } finally {
      if (held.wanted === revision) held.wanted = null;
      this.fetching -= 1;
      this.waiting.shift()?.();
      this.arrived();
    }
  }
}

function range(low: number, high: number, edge: number, last: number): number[] {
  const from = Math.max(0, Math.floor(low / edge));
  const to = Math.min(last, Math.floor(high / edge));
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, k) => from + k);
}
