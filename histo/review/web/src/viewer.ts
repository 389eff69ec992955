// The slide with everything that lies over it. OpenSeadragon shows the slide; the rest is drawn on a canvas above.

import OpenSeadragon from "openseadragon";
import { type Detail, type Point, type Session, slidePath, type State } from "./api";
import { ADDED, DELETED, type Tile, TileStore, trace } from "./cells";
import { alertOf, el, put, rgb } from "./dom";
import type { Look } from "./look";
import { holder, openViewer, tilesOf, widthUm } from "./osd";

// Below so many um per screen pixel, outlines; above so many, points drawn once per block.
const OUTLINES_BELOW = 0.55;
const BLOCKS_ABOVE = 2;
const POINT_UM = 6;

export interface Layers {
  cells: { on: boolean; opacity: number };
  regions: { on: boolean; opacity: number };
  zones: { on: boolean; opacity: number };
  density: { on: boolean; opacity: number };
  excluded: { on: boolean; opacity: number };
}

export type Mode = "move" | "add" | "draw" | "scribble" | "count";

/** What is being drawn or looked at, on top of all. */
export interface Marks {
  selected: { x: number; y: number }[];
  outline: Point[];
  cursor: Point | null;
  colour: readonly number[];
  /** A counting frame and what was marked in it: then nothing of the model is shown. */
  frame: { x: number; y: number; edge: number; marks: Point[] } | null;
}

export class Viewer {
  readonly osd: OpenSeadragon.Viewer;
  readonly canvas: HTMLCanvasElement;
  mode: Mode = "move";
  layers: Layers;
  look: Look;
  marks: Marks = { selected: [], outline: [], cursor: null, colour: [0, 0, 0], frame: null };
  state: State | null = null;
  /** Called with um in the slide's frame. */
  onclick: (x: number, y: number, shift: boolean) => void = () => {};
  ondrag: (x: number, y: number, phase: "start" | "move" | "end") => void = () => {};
  onhover: (x: number, y: number) => void = () => {};
  onview: () => void = () => {};
  private outlines: TileStore;
  private points: TileStore;
  private maps = new Map<string, { revision: string; image: HTMLImageElement | null }>();
  private regionPaths: { revision: string; paths: [string, Path2D, boolean][] } = { revision: "", paths: [] };
  private frame = 0;
  private channels = "";
  private colours: Map<string, readonly number[]>;

  constructor(
    readonly host: HTMLElement,
    private detail: Detail,
    session: Session,
    layers: Layers,
    look: Look,
  ) {
    this.layers = layers;
    this.look = look;
    this.colours = new Map(session.regions.map(({ name, colour }) => [name, colour] as const));
    this.colours.set("tumour border", [255, 200, 0]);
    const box = holder();
    this.canvas = el("canvas", { class: "over", "aria-hidden": "true" });
    const navigator = el("div", { class: "map", id: "map", "aria-hidden": "true" });
    put(host, box, this.canvas, navigator);
    this.osd = openViewer(
      box,
      tilesOf(detail, () => this.channels),
      {
        showNavigator: true,
        navigatorId: navigator.id,
        navigatorBackground: "transparent",
        navigatorBorderColor: "transparent",
        navigatorDisplayRegionColor: "#0b6e75",
      },
    );
    const failed = (error: unknown) => alertOf(error);
    const redraw = () => this.redraw();
    this.outlines = new TileStore(detail.key, "outlines", session.tile_um, detail.size_um, 60, redraw, failed);
    this.points = new TileStore(detail.key, "points", session.block_um, detail.size_um, 24, redraw, failed);
    this.osd.addHandler("update-viewport", () => this.redraw());
    this.osd.addHandler("animation", () => this.redraw());
    this.osd.addHandler("resize", () => this.redraw());
    this.osd.addHandler("open", () => {
      this.osd.world.getItemAt(0).addHandler("fully-loaded-change", () => this.redraw());
      this.redraw();
    });
    this.osd.addHandler("canvas-click", (event) => {
      if (!event.quick) return;
      const [x, y] = this.toUm(event.position.x, event.position.y);
      this.onclick(x, y, (event.originalEvent as MouseEvent).shiftKey);
    });
    this.osd.addHandler("canvas-drag", (event) => {
      if (this.mode !== "draw" && this.mode !== "scribble") return;
      event.preventDefaultAction = true;
      const [x, y] = this.toUm(event.position.x, event.position.y);
      if (!this.dragging) {
        this.dragging = true;
        const [x0, y0] = this.toUm(event.position.x - event.delta.x, event.position.y - event.delta.y);
        this.ondrag(x0, y0, "start");
      }
      this.ondrag(x, y, "move");
    });
    this.osd.addHandler("canvas-drag-end", (event) => {
      if (!this.dragging) return;
      this.dragging = false;
      event.preventDefaultAction = true;
      const [x, y] = this.toUm(event.position.x, event.position.y);
      this.ondrag(x, y, "end");
    });
    host.addEventListener("pointermove", (event) => {
      const frame = box.getBoundingClientRect();
      this.onhover(...this.toUm(event.clientX - frame.left, event.clientY - frame.top));
    });
  }

  private dragging = false;

  close(): void {
    cancelAnimationFrame(this.frame);
    this.osd.destroy();
  }

  /** Whether everything that can be seen is there. */
  private get settled(): boolean {
    const here = this.osd.world.getItemAt(0).getFullyLoaded();
    return here && this.state !== null && !this.outlines.busy && !this.points.busy;
  }

  // Frames ----------------------------------------------------------------------------------------------------

  /** um per screen pixel. */
  get resolution(): number {
    return (this.osd.viewport.getBounds(true).width * this.widthUm) / Math.max(1, this.osd.container.clientWidth);
  }

  get centre(): Point {
    const centre = this.osd.viewport.getCenter(true);
    return [centre.x * this.widthUm, centre.y * this.widthUm];
  }

  private get widthUm(): number {
    return widthUm(this.detail);
  }

  toUm(x: number, y: number): Point {
    const point = this.osd.viewport.pointFromPixel(new OpenSeadragon.Point(x, y), true);
    return [point.x * this.widthUm, point.y * this.widthUm];
  }

  goTo(x: number, y: number, umPerPixel?: number): void {
    const { clientWidth, clientHeight } = this.osd.container;
    if (umPerPixel === undefined) {
      this.osd.viewport.panTo(new OpenSeadragon.Point(x / this.widthUm, y / this.widthUm));
      return;
    }
    const [w, h] = [clientWidth * umPerPixel, clientHeight * umPerPixel];
    const to = [x - w / 2, y - h / 2, w, h].map((um) => um / this.widthUm) as [number, number, number, number];
    this.osd.viewport.fitBounds(new OpenSeadragon.Rect(...to));
  }

  setResolution(umPerPixel: number): void {
    this.osd.viewport.zoomTo(this.widthUm / (umPerPixel * this.osd.container.clientWidth));
  }

  panBy(x: number, y: number): void {
    const bounds = this.osd.viewport.getBounds();
    this.osd.viewport.panBy(new OpenSeadragon.Point(x * bounds.width, y * bounds.height));
  }

  zoomBy(factor: number): void {
    this.osd.viewport.zoomBy(factor);
    this.osd.viewport.applyConstraints();
  }

  home(): void {
    this.osd.viewport.goHome();
  }

  setChannels(text: string): void {
    if (text === this.channels) return;
    this.channels = text;
    this.osd.world.resetItems();
    this.osd.navigator?.world.resetItems();
  }

  /** As `goTo`, at once. */
  jumpTo(x: number, y: number, umPerPixel: number): void {
    this.osd.viewport.zoomTo(this.widthUm / (umPerPixel * this.osd.container.clientWidth), undefined, true);
    this.osd.viewport.panTo(new OpenSeadragon.Point(x / this.widthUm, y / this.widthUm), true);
  }

  // Drawing ---------------------------------------------------------------------------------------------------

  redraw(): void {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.draw());
  }

  private draw(): void {
    const { canvas, osd } = this;
    if (osd.world === null || osd.world.getItemCount() === 0) return;
    const [width, height] = [osd.container.clientWidth, osd.container.clientHeight];
    const ratio = window.devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const context = canvas.getContext("2d")!;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, canvas.width, canvas.height);
    const r = this.resolution;
    const [left, top] = this.toUm(0, 0);
    const scale = ratio / r;
    const inUm = (x = 0, y = 0) => context.setTransform(scale, 0, 0, scale, (x - left) * scale, (y - top) * scale);
    if (this.state !== null && this.marks.frame === null) {
      const box: [number, number, number, number] = [left, top, left + width * r, top + height * r];
      inUm();
      for (const name of ["zones", "density", "excluded"] as const) this.drawMap(context, name);
      if (this.layers.regions.on) this.drawRegions(context, r);
      if (this.layers.cells.on) this.drawCells(context, box, r, inUm);
    }
    inUm();
    this.drawMarks(context, r);
    this.host.setAttribute("aria-busy", String(!this.settled));
    this.onview();
  }

  private drawMap(context: CanvasRenderingContext2D, name: "zones" | "density" | "excluded"): void {
    const layer = this.layers[name];
    if (!layer.on || this.state === null) return;
    let map = this.maps.get(name);
    if (map === undefined || map.revision !== this.state.revision) {
      const image = new Image();
      const held = { revision: this.state.revision, image: map?.image ?? null };
      this.maps.set(name, held);
      map = held;
      image.onload = () => {
        held.image = image;
        this.redraw();
      };
      image.src = `${slidePath(this.detail.key)}/maps/${name}.png?r=${this.state.revision}`;
    }
    if (map.image === null) return;
    context.globalAlpha = layer.opacity;
    context.imageSmoothingEnabled = name === "density";
    const edge = this.detail.map_um[name];
    context.drawImage(map.image, 0, 0, map.image.width * edge, map.image.height * edge);
    context.globalAlpha = 1;
  }

  private drawRegions(context: CanvasRenderingContext2D, r: number): void {
    const state = this.state!;
    if (this.regionPaths.revision !== state.revision) {
      const paths = Object.entries(state.outlines).map(([name, rings]): [string, Path2D, boolean] => {
        const path = new Path2D();
        const line = name === "tumour border";
        for (const ring of rings) {
          ring.forEach(([x, y], k) => (k === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
          if (!line) path.closePath();
        }
        return [name, path, line];
      });
      // The border last: it is what the others are about.
      paths.sort((a, b) => Number(a[2]) - Number(b[2]));
      this.regionPaths = { revision: state.revision, paths };
    }
    const { opacity } = this.layers.regions;
    for (const [name, path, line] of this.regionPaths.paths) {
      const colour = this.colours.get(name) ?? [100, 100, 100];
      context.globalAlpha = opacity;
      context.lineWidth = (line ? 3 : 2) * r;
      context.strokeStyle = rgb(colour);
      if (!line) {
        context.globalAlpha = opacity * 0.12;
        context.fillStyle = rgb(colour);
        context.fill(path, "evenodd");
        context.globalAlpha = opacity;
      }
      context.stroke(path);
    }
    context.globalAlpha = 1;
    for (const { number, action } of state.entries) {
      if (action.kind !== "scribble" || !state.in_force.includes(number)) continue;
      context.beginPath();
      action.line.forEach(([x, y], k) => (k === 0 ? context.moveTo(x, y) : context.lineTo(x, y)));
      context.lineCap = context.lineJoin = "round";
      for (const [style, width] of [["#fff", 6], [rgb(this.colours.get(action.region) ?? [100, 100, 100]), 3.5]] as const) {
        context.strokeStyle = style;
        context.lineWidth = width * r;
        context.stroke();
      }
      context.lineCap = "butt";
      context.lineJoin = "miter";
    }
  }

  private drawCells(
    context: CanvasRenderingContext2D,
    box: [number, number, number, number],
    r: number,
    inUm: (x?: number, y?: number) => void,
  ): void {
    const { revision } = this.state!;
    context.globalAlpha = this.layers.cells.opacity;
    if (r < OUTLINES_BELOW) {
      for (const { tile, left, top } of this.outlines.under(grown(box, 20), revision)) {
        inUm(left, top);
        context.lineWidth = 1.6 * r;
        this.outlinePaths(tile, left, top).forEach((path, k) => {
          context.strokeStyle = this.look.colours[k];
          if (k === this.look.colours.length - 1) context.setLineDash([3 * r, 3 * r]);
          context.stroke(path);
          context.setLineDash([]);
        });
      }
    } else if (r < BLOCKS_ABOVE) {
      inUm();
      for (const { tile } of this.points.under(box, revision)) this.drawPoints(context, tile, box, r);
    } else {
      const step = 2 ** Math.floor(Math.log2(r));
      for (const { tile, left, top } of this.points.under(box, revision)) {
        const picture = this.blockPicture(tile, left, top, step);
        inUm(left, top);
        context.imageSmoothingEnabled = true;
        context.drawImage(picture, 0, 0, this.points.edge, this.points.edge);
      }
    }
    context.globalAlpha = 1;
  }

  private outlinePaths(tile: Tile, left: number, top: number): Path2D[] {
    const name = `paths ${this.look.name}`;
    let paths = tile.drawn.get(name) as Path2D[] | undefined;
    if (paths === undefined) {
      paths = this.look.colours.map(() => new Path2D());
      for (let k = 0; k < tile.n; k++) {
        const index = this.look.indexOf(tile, k);
        if (index >= 0) trace(paths[index], tile, k, left, top);
      }
      tile.drawn.clear();
      tile.drawn.set(name, paths);
    }
    return paths;
  }

  private drawPoints(context: CanvasRenderingContext2D, tile: Tile, box: [number, number, number, number], r: number): void {
    const edge = Math.max(POINT_UM, 2.2 * r);
    // CD8+ cells over the others.
    for (const cd8 of [0, 1]) {
      let before = -2;
      for (let k = 0; k < tile.n; k++) {
        const [x, y] = [tile.x[k], tile.y[k]];
        if (tile.isCd8[k] !== cd8 || x < box[0] || x > box[2] || y < box[1] || y > box[3]) continue;
        const index = this.look.indexOf(tile, k);
        if (index < 0) continue;
        if (index !== before) context.fillStyle = this.look.colours[(before = index)];
        context.fillRect(x - edge / 2, y - edge / 2, edge, edge);
      }
    }
  }

  private blockPicture(tile: Tile, left: number, top: number, step: number): HTMLCanvasElement {
    const name = `block ${this.look.name} ${step}`;
    let picture = tile.drawn.get(name) as HTMLCanvasElement | undefined;
    if (picture === undefined) {
      const size = Math.ceil(this.points.edge / step);
      picture = document.createElement("canvas");
      picture.width = picture.height = size;
      const context = picture.getContext("2d")!;
      const pixels = context.createImageData(size, size);
      const packed = new Uint32Array(pixels.data.buffer);
      const edge = Math.max(1, Math.round(POINT_UM / step));
      for (const cd8 of [0, 1]) {
        for (let k = 0; k < tile.n; k++) {
          if (tile.isCd8[k] !== cd8) continue;
          const index = this.look.indexOf(tile, k);
          if (index < 0 || tile.flags[k] & DELETED) continue;
          const grow = cd8 === 1 || tile.flags[k] & ADDED ? edge + 1 : edge;
          const x = Math.floor((tile.x[k] - left) / step);
          const y = Math.floor((tile.y[k] - top) / step);
          for (let dy = 0; dy < grow; dy++) {
            for (let dx = 0; dx < grow; dx++) if (x + dx < size && y + dy < size) packed[(y + dy) * size + x + dx] = this.look.packed[index];
          }
        }
      }
      context.putImageData(pixels, 0, 0);
      tile.drawn.clear();
      tile.drawn.set(name, picture);
    }
    return picture;
  }

  private drawMarks(context: CanvasRenderingContext2D, r: number): void {
    const { selected, outline, cursor, colour, frame } = this.marks;
    if (frame !== null) {
      for (const [style, width] of [["#fff", 5], ["#0b6e75", 2]] as const) {
        context.strokeStyle = style;
        context.lineWidth = width * r;
        context.strokeRect(frame.x, frame.y, frame.edge, frame.edge);
        for (const [x, y] of frame.marks) {
          context.beginPath();
          context.moveTo(x - 5 * r, y);
          context.lineTo(x + 5 * r, y);
          context.moveTo(x, y - 5 * r);
          context.lineTo(x, y + 5 * r);
          context.stroke();
        }
      }
      return;
    }
    for (const { x, y } of selected) {
      for (const [style, width] of [["#fff", 5], ["#0b6e75", 2.5]] as const) {
        context.strokeStyle = style;
        context.lineWidth = width * r;
        context.beginPath();
        context.arc(x, y, Math.max(9, 12 * r), 0, 2 * Math.PI);
        context.stroke();
      }
    }
    if (outline.length > 0) {
      const path = new Path2D();
      [...outline, ...(cursor ? [cursor] : [])].forEach(([x, y], k) => (k === 0 ? path.moveTo(x, y) : path.lineTo(x, y)));
      if (this.mode === "draw") {
        context.globalAlpha = 0.2;
        context.fillStyle = rgb(colour);
        context.fill(path);
        context.globalAlpha = 1;
      }
      for (const [style, width] of [["#fff", 4], [rgb(colour), 2]] as const) {
        context.strokeStyle = style;
        context.lineWidth = width * r;
        context.stroke(path);
      }
      if (outline.length < 60) {
        context.fillStyle = "#fff";
        for (const [x, y] of outline) context.fillRect(x - 3 * r, y - 3 * r, 6 * r, 6 * r);
      }
    }
  }
}

function grown([x0, y0, x1, y1]: [number, number, number, number], by: number): [number, number, number, number] {
  return [x0 - by, y0 - by, x1 + by, y1 + by];
}
