// One slide: viewer in the middle, layers at the left, panels at the right, keys for everything.

import { act, type Action, type Cell, type Channel, type Detail, type Entry, type Frames, get, type NumberRow, type Point, type Row, type Session, slidePath, type State } from "./api";
import { alertOf, button, el, figure, put, refill, say, swatch } from "./dom";
import { Beside } from "./beside";
import { type By, lookOf } from "./look";
import { cellPanel, countPanel, describe, HistogramPanel, logPanel, numbersPanel, signPanel } from "./panels";
import { type Layers, type Mode, Viewer } from "./viewer";

const MAGNIFICATIONS: [string, number][] = [
  ["2.5\u00d7", 4],
  ["5\u00d7", 2],
  ["10\u00d7", 1],
  ["20\u00d7", 0.5],
  ["40\u00d7", 0.25],
];
const LAYERS: [keyof Layers, string, string, number, boolean][] = [
  ["cells", "Cells", "1", 0.9, true],
  ["regions", "Regions and border", "2", 0.9, true],
  ["zones", "Zones", "3", 0.35, false],
  ["density", "CD8+ density", "4", 0.55, false],
  ["excluded", "Not assessed", "5", 0.5, false],
];
const TABS = ["Cell", "Numbers", "Histogram", "Count", "Log", "Sign"] as const;
// A click this close to a mark, in screen pixels, takes it back.
const UNMARK_PX = 9;
type Tab = (typeof TABS)[number];
const DRAWN = ["tumour", "host", "necrosis", "exclude", "stroma", "portal", "vessel", "rim", "other"];
// Vertices of a freehand outline lie at least so many screen pixels apart.
const STROKE_PX = 3;

export class SlideView {
  static async open(app: HTMLElement, session: Session, key: string): Promise<SlideView> {
    refill(app, el("main", {}, el("p", { class: "muted pad" }, "Opening the slide ...")));
    const [detail, list] = await Promise.all([get<Detail>(slidePath(key)), get<{ slides: Row[] }>("/api/slides")]);
    return new SlideView(app, session, detail, list.slides);
  }

  private viewer: Viewer;
  private state: State | null = null;
  private selected: Cell[] = [];
  private allNumbers: NumberRow[] | null = null;
  private uncertain: { cell_id: number; x_um: number; y_um: number }[] | null = null;
  private atUncertain = -1;
  private tab: Tab = "Numbers";
  private by: By = "class";
  private showOther = true;
  private channels: (Channel & { on: boolean })[];
  private adding: string;
  private region = "tumour";
  private regionMode: "add" | "remove" = "add";
  private histogram: HistogramPanel;
  private closing = new AbortController();
  private hover: Point = [0, 0];
  private frames: Frames | null = null;
  private frame: number | null = null;
  private edge = 250;
  private beside: Beside | null = null;

  private readonly stage = el("div", { class: "stage", tabindex: 0, role: "application", "aria-label": "Slide. Arrow keys move, plus and minus zoom, Enter picks the cell at the cross, question mark lists all keys." });
  private readonly stages = el("div", { class: "stages" }, this.stage);
  private readonly place = el("div", { class: "place" });
  private readonly scale = el("div", { class: "scale" });
  private readonly banner = el("div", { class: "banner", hidden: true });
  private readonly panel = el("div", { class: "panel-body", role: "tabpanel", id: "panel", tabindex: 0 });
  private readonly tabs = new Map<Tab, HTMLButtonElement>();
  private readonly legend = el("ul", { class: "legend-list" });
  private readonly tools = el("div", { class: "tools", role: "toolbar", "aria-label": "Tools" });
  private readonly stateChip = el("span", { class: "chip" }, "reading cells ...");
  private readonly hint = el("div", { class: "hint", hidden: true });
  private readonly help: HTMLDialogElement;
  private readonly toggles = new Map<keyof Layers, HTMLInputElement>();

  private constructor(
    app: HTMLElement,
    private session: Session,
    private detail: Detail,
    private list: Row[],
  ) {
    document.title = `${detail.label} - histo review`;
    this.adding = session.classes[0].name;
    this.channels = detail.channels.map((channel) => ({ ...channel, on: channel.shown }));
    const layers = Object.fromEntries(LAYERS.map(([name, , , opacity, on]) => [name, { on, opacity }])) as unknown as Layers;
    this.histogram = new HistogramPanel(detail, () => this.locked);
    this.histogram.onset = (marker, threshold) => void this.act({ kind: "set_gate", marker, threshold });
    this.help = helpDialog();
    refill(app, this.bar(), el("main", { class: "slide" }, this.layersPanel(layers), el("section", { class: "middle", "aria-label": "Slide" }, this.tools, this.stages), this.sidePanel()), this.help);
    this.viewer = new Viewer(this.stage, detail, session, layers, this.makeLook());
    put(this.stage, el("div", { class: "cross", "aria-hidden": "true" }), this.scale, this.place, this.banner, this.hint);
    this.stage.classList.toggle("dark", detail.kind === "fluorescence");
    if (detail.kind === "fluorescence") this.viewer.setChannels(this.channelText());
    this.viewer.onclick = (x, y, shift) => void this.clicked(x, y, shift);
    this.viewer.ondrag = (x, y, phase) => this.dragged([x, y], phase);
    this.viewer.onhover = (x, y) => {
      this.hover = [x, y];
      this.tellPlace();
    };
    this.viewer.onview = () => {
      this.tellPlace();
      this.beside?.follow();
    };
    document.addEventListener("keydown", (event) => this.key(event), { signal: this.closing.signal });
    this.fillTools();
    this.fillLegend();
    this.show("Numbers");
    void this.load();
  }

  close(): void {
    this.closing.abort();
    this.beside?.close();
    this.viewer.close();
  }

  // State -----------------------------------------------------------------------------------------------------

  private get locked(): boolean {
    return this.state === null || this.state.signed !== null;
  }

  private async load(): Promise<void> {
    try {
      this.take(await get<State>(`${slidePath(this.detail.key)}/state`));
    } catch (error) {
      this.stateChip.textContent = "cells cannot be read";
      alertOf(error);
    }
  }

  private take(state: State): void {
    this.state = state;
    this.viewer.state = state;
    this.allNumbers = null;
    this.viewer.redraw();
    const n = state.in_force.length;
    this.stateChip.className = `chip ${state.signed ? "good" : n > 0 ? "busy" : ""}`;
    this.stateChip.textContent = state.signed ? "signed, locked" : n > 0 ? `${n} correction${n === 1 ? "" : "s"}` : "no corrections";
    if (state.notes.length > 0) {
      this.banner.hidden = false;
      this.banner.textContent = state.notes.join(" ");
    } else this.banner.hidden = true;
    if (this.locked && this.viewer.mode !== "move") this.setMode("move");
    this.fillTools();
    this.fillPanel();
    const density = state.numbers.find((row) => row.name === "cd8_density_per_mm2");
    if (density?.new) say(`${n} corrections. CD8+ density ${figure(density.new.value)} per square millimetre, ${figure(density.old?.value)} in the run.`);
  }

  private async act(action: Action): Promise<boolean> {
    this.stateChip.textContent = "saving ...";
    try {
      this.take(await act(this.detail.key, action));
      const kind = action.kind;
      if (kind === "set_gate") void this.histogram.load();
      if (kind === "delete_cells" || kind === "set_class" || kind === "undo" || kind === "redo") await this.refreshSelected();
      return true;
    } catch (error) {
      alertOf(error);
      if (this.state !== null) this.take(this.state);
      return false;
    }
  }

  private async refreshSelected(): Promise<void> {
    const cells = await Promise.all(this.selected.map((cell) => get<{ cell: Cell }>(`${slidePath(this.detail.key)}/cell/${cell.cell_id}`).catch(() => null)));
    this.select(cells.filter((answer) => answer !== null).map(({ cell }) => cell), false);
  }

  private undo(): void {
    const last = this.state?.in_force.at(-1);
    if (!this.locked && last !== undefined) void this.act({ kind: "undo", entry: last });
  }

  private redo(): void {
    const last = this.state?.undone.at(-1);
    if (!this.locked && last !== undefined) void this.act({ kind: "redo", entry: last });
  }

  // Cells -----------------------------------------------------------------------------------------------------

  private async clicked(x: number, y: number, shift: boolean): Promise<void> {
    this.stage.focus({ preventScroll: true });
    if (this.viewer.mode === "add") {
      await this.add(x, y);
      return;
    }
    if (this.viewer.mode === "draw" || this.viewer.mode === "scribble") {
      this.addVertex([x, y]);
      return;
    }
    if (this.viewer.mode === "count") {
      this.mark(x, y);
      return;
    }
    await this.pick(x, y, shift);
  }

  private async pick(x: number, y: number, more = false): Promise<void> {
    if (this.state === null) return;
    try {
      const { cell } = await get<{ cell: Cell | null }>(`${slidePath(this.detail.key)}/pick?x=${x}&y=${y}`);
      if (cell === null) {
        if (!more) this.select([]);
        return;
      }
      const before = more ? this.selected.filter(({ cell_id }) => cell_id !== cell.cell_id) : [];
      this.select([...before, cell]);
    } catch (error) {
      alertOf(error);
    }
  }

  private select(cells: Cell[], show = true): void {
    this.selected = cells;
    this.viewer.marks.selected = cells.map(({ x_um, y_um }) => ({ x: x_um, y: y_um }));
    this.viewer.redraw();
    if (show && cells.length > 0) this.show("Cell");
    else this.fillPanel();
    const last = cells.at(-1);
    if (last) say(`${last.cell_class}, ${last.zone || "no zone"}${last.signed_distance_um === null ? "" : `, ${figure(last.signed_distance_um)} um from the border`}`);
  }

  private get ids(): number[] {
    return this.selected.filter((cell) => !cell.deleted).map(({ cell_id }) => cell_id);
  }

  private remove(): void {
    if (!this.locked && this.ids.length > 0) void this.act({ kind: "delete_cells", cells: this.ids });
  }

  private setClass(name?: string): void {
    const last = this.selected.at(-1);
    if (this.locked || last === undefined || this.ids.length === 0) return;
    const to = name ?? this.session.classes.map((c) => c.name).find((c) => c !== last.cell_class)!;
    void this.act({ kind: "set_class", cells: this.ids, cell_class: to });
  }

  private async add(x: number, y: number): Promise<void> {
    if (this.locked) return;
    if (await this.act({ kind: "add_cell", x_um: x, y_um: y, cell_class: this.adding })) await this.pick(x, y);
  }

  private async nextUncertain(step: number): Promise<void> {
    if (this.state === null) return;
    try {
      if (this.uncertain === null) this.uncertain = (await get<{ cells: NonNullable<SlideView["uncertain"]> }>(`${slidePath(this.detail.key)}/uncertain`)).cells;
      if (this.uncertain.length === 0) {
        say("No CD8+ cell has a probability.");
        return;
      }
      this.atUncertain = Math.min(this.uncertain.length - 1, Math.max(0, this.atUncertain + step));
      const { x_um, y_um } = this.uncertain[this.atUncertain];
      this.viewer.goTo(x_um, y_um, Math.min(this.viewer.resolution, 0.25));
      await this.pick(x_um, y_um);
    } catch (error) {
      alertOf(error);
    }
  }

  // Regions ---------------------------------------------------------------------------------------------------

  private setMode(mode: Mode): void {
    if (this.locked && mode !== "move") return;
    this.viewer.mode = mode;
    this.stage.dataset.mode = mode;
    this.viewer.marks.outline = [];
    this.viewer.marks.cursor = null;
    if (mode !== "count") {
      this.frame = null;
      this.viewer.marks.frame = null;
      if (this.tab === "Count") this.show("Count");
    }
    this.viewer.redraw();
    this.fillTools();
    this.tellHint();
  }

  private tellHint(): void {
    const n = this.viewer.marks.outline.length;
    const text = {
      move: "",
      count: "",
      add: `Click where a ${this.adding} was missed; from the keyboard, A adds one at the cross. Esc ends.`,
      draw:
        n === 0
          ? `Drag to draw freehand, or click vertex by vertex; from the keyboard, Space sets one at the cross. ${this.regionMode === "add" ? "Drawing" : "Taking from"} ${this.region}.`
          : `${n} vertices. Enter closes the outline, Backspace takes the last one back, Esc drops it.`,
      scribble: `Drag over ${this.region}; from the keyboard, Space sets points at the cross and Enter ends the line. From lines over tumour and at least one other tissue, the tissue of the whole slide is told anew.`,
    }[this.viewer.mode];
    this.hint.hidden = text === "";
    this.hint.textContent = text;
  }

  private addVertex(point: Point): void {
    const { marks } = this.viewer;
    marks.outline.push(point);
    marks.colour = this.session.regions.find(({ name }) => name === this.region)?.colour ?? [0, 0, 0];
    this.viewer.redraw();
    this.tellHint();
  }

  private dragged(point: Point, phase: "start" | "move" | "end"): void {
    const { marks } = this.viewer;
    if (phase === "start") marks.outline = [];
    const last = marks.outline.at(-1);
    if (last === undefined || Math.hypot(point[0] - last[0], point[1] - last[1]) > STROKE_PX * this.viewer.resolution) this.addVertex(point);
    if (phase === "end") void this.closeOutline();
  }

  private async closeOutline(): Promise<void> {
    const outline = this.viewer.marks.outline.map(([x, y]): Point => [Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
    const scribble = this.viewer.mode === "scribble";
    if (outline.length < (scribble ? 2 : 3)) {
      say(scribble ? "A line needs two points." : "An outline needs three vertices.");
      return;
    }
    const { region, regionMode: mode } = this;
    if (await this.act(scribble ? { kind: "scribble", region, line: outline } : { kind: "draw_region", region, mode, outline })) {
      this.viewer.marks.outline = [];
      this.viewer.marks.cursor = null;
      this.viewer.redraw();
      this.tellHint();
      if (this.tab === "Cell") this.show("Numbers");
    }
  }

  // Counting --------------------------------------------------------------------------------------------------

  private async loadFrames(): Promise<void> {
    try {
      this.frames = await get<Frames>(`${slidePath(this.detail.key)}/frames?edge_um=${this.edge}`);
      this.fillPanel();
    } catch (error) {
      alertOf(error);
    }
  }

  private countFrom(frame: number): void {
    const [x, y] = this.frames!.frames[frame];
    this.frame = frame;
    this.select([], false);
    this.setMode("count");
    this.viewer.marks.frame = { x, y, edge: this.edge, marks: [...(this.frames!.marks[frame + 1] ?? [])] };
    this.viewer.goTo(x + this.edge / 2, y + this.edge / 2, (1.15 * this.edge) / Math.min(this.stage.clientHeight, this.stage.clientWidth));
    this.stage.focus({ preventScroll: true });
    this.show("Count");
  }

  private mark(x: number, y: number): void {
    const frame = this.viewer.marks.frame;
    if (frame === null) return;
    const near = frame.marks.findIndex(([mx, my]) => Math.hypot(mx - x, my - y) < UNMARK_PX * this.viewer.resolution);
    if (near >= 0) frame.marks.splice(near, 1);
    else if (x >= frame.x && x < frame.x + frame.edge && y >= frame.y && y < frame.y + frame.edge) frame.marks.push([Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
    this.viewer.redraw();
    this.fillPanel();
    say(`${frame.marks.length} marked`);
  }

  private async frameDone(): Promise<void> {
    const frame = this.viewer.marks.frame;
    if (frame === null || this.frame === null) return;
    const counted = { kind: "count_frame", frame: this.frame + 1, x_um: frame.x, y_um: frame.y, edge_um: frame.edge, marks: frame.marks } as const;
    if (!(await this.act(counted))) return;
    await this.loadFrames();
    const next = this.frames!.reader.findIndex((n) => n === null);
    if (next < 0) this.setMode("move");
    else this.countFrom(next);
  }

  // Parts of the page -----------------------------------------------------------------------------------------

  private bar(): HTMLElement {
    const { detail, session, list } = this;
    const at = list.findIndex(({ key }) => key === detail.key);
    const link = (row: Row | undefined, label: string, keys: string) =>
      row && row.error === null ? el("a", { href: `#/slide/${encodeURIComponent(row.key)}`, class: "step", title: `${label} (${keys})` }, label) : el("span", { class: "step off" }, label);
    return el(
      "header",
      { class: "bar" },
      el("a", { href: "#/", class: "back" }, "Work list"),
      el("h1", {}, detail.label),
      detail.patient !== null && el("span", { class: "muted" }, `patient ${detail.patient}`),
      detail.site !== null && el("span", { class: "muted" }, detail.site),
      session.blinded && el("strong", { class: "chip blinded" }, "Blinded"),
      this.stateChip,
      ...detail.flags.slice(0, 3).map((flag) => el("span", { class: "chip warn", title: flag.message }, flag.code.replaceAll("_", " "))),
      el("span", { class: "grow" }),
      link(list[at - 1], "Previous", "["),
      el("span", { class: "muted" }, `${at + 1} of ${list.length}`),
      link(list[at + 1], "Next", "]"),
      button("Layers", () => document.body.classList.toggle("with-layers"), { class: "quiet narrow-only", "aria-controls": "layers" }),
      button("Keys", () => this.help.showModal(), { class: "quiet", "aria-keyshortcuts": "?" }),
      el("span", { class: "muted reader" }, session.reader),
    );
  }

  private layersPanel(layers: Layers): HTMLElement {
    const rows = LAYERS.map(([name, label, key]) => {
      const layer = layers[name];
      const toggle = el("input", { type: "checkbox", id: `layer-${name}`, checked: layer.on, "aria-keyshortcuts": key, onchange: () => this.setLayer(name, toggle.checked) });
      this.toggles.set(name, toggle);
      const opacity = el("input", {
        type: "range",
        min: 0.05,
        max: 1,
        step: 0.05,
        value: layer.opacity,
        "aria-label": `Opacity of ${label}`,
        oninput: () => {
          layer.opacity = Number(opacity.value);
          this.viewer.redraw();
        },
      });
      return el("li", {}, el("label", { for: toggle.id, class: "inline" }, toggle, label, el("kbd", {}, key)), opacity);
    });
    const by: [By, string][] = [["class", "class"], ["confidence", "confidence"], ["zone", "zone"], ...this.detail.markers.map((marker): [By, string] => [`state:${marker}`, `${marker} by its gate`])];
    const select = el(
      "select",
      {
        id: "by",
        onchange: () => {
          this.by = select.value as By;
          this.relook();
        },
      },
      ...by.map(([value, label]) => el("option", { value }, label)),
    );
    const other = el("input", {
      type: "checkbox",
      id: "other",
      checked: true,
      onchange: () => {
        this.showOther = other.checked;
        this.relook();
      },
    });
    return el(
      "aside",
      { class: "layers", id: "layers", "aria-label": "Layers" },
      el("h2", {}, "Layers"),
      el("ul", { class: "layer-list" }, ...rows),
      el("h2", {}, "Cells"),
      el("label", { for: "by" }, "Coloured by"),
      select,
      el("label", { for: "other", class: "inline" }, other, "Other nuclei too", el("kbd", {}, "o")),
      this.legend,
      this.channels.length > 0 && this.channelPanel(),
      this.besidePanel(),
    );
  }

  private besidePanel(): HTMLElement {
    const lock = el("input", { type: "checkbox", id: "lock", disabled: true, onchange: () => this.beside?.setLock(lock.checked) });
    const degrees = el("input", { type: "number", id: "degrees", value: 0, min: -180, max: 180, step: 1, disabled: true, oninput: () => this.beside?.turn(Number(degrees.value) || 0) });
    const choose = async () => {
      this.beside?.close();
      this.beside = null;
      lock.checked = false;
      degrees.value = "0";
      if (select.value !== "") {
        try {
          const detail = await get<Detail>(slidePath(select.value));
          this.beside = new Beside(this.viewer, detail);
          this.stages.append(this.beside.element);
        } catch (error) {
          alertOf(error);
          select.value = "";
        }
      }
      lock.disabled = degrees.disabled = this.beside === null;
    };
    const others = this.list.filter((row) => row.error === null && row.key !== this.detail.key);
    const select = el("select", { id: "beside", onchange: () => void choose() }, el("option", { value: "" }, "none"), ...others.map((row) => el("option", { value: row.key }, row.label)));
    return el(
      "div",
      { class: "beside-tools" },
      el("h2", {}, "Beside"),
      el("label", { for: "beside" }, "Another slide, e.g. a serial section"),
      select,
      el("label", { for: "degrees", class: "inline" }, "Turned by", degrees, "\u00b0"),
      el("label", { for: "lock", class: "inline", title: "Lay both by hand on the same place, then lock them" }, lock, "Locked together as they lie"),
    );
  }

  private channelPanel(): HTMLElement {
    const changed = () => this.viewer.setChannels(this.channelText());
    return el(
      "div",
      { class: "channels" },
      el("h2", {}, "Channels"),
      ...this.channels.map((channel) => {
        const top = Math.max(channel.high * 2, channel.low + 1);
        const on = el("input", { type: "checkbox", id: `channel-${channel.index}`, checked: channel.on, onchange: () => ((channel.on = on.checked), changed()) });
        const colour = el("input", { type: "color", value: hex(channel.colour), "aria-label": `Colour of ${channel.name}`, onchange: () => ((channel.colour = unhex(colour.value)), changed()) });
        const limit = (which: "low" | "high") => {
          const input = el("input", { type: "range", min: 0, max: top, step: top / 500, value: channel[which], "aria-label": `${which === "low" ? "Black" : "Full colour"} of ${channel.name}`, onchange: () => ((channel[which] = Number(input.value)), changed()) });
          return input;
        };
        return el("div", { class: "channel" }, el("label", { for: on.id, class: "inline" }, on, channel.name), colour, limit("low"), limit("high"));
      }),
    );
  }

  private channelText(): string {
    const shown = this.channels.filter(({ on }) => on);
    // None at all is a black picture, not the server's own choice.
    return shown.length === 0 ? "0:000000:0:1" : addressOf(shown);
  }

  private sidePanel(): HTMLElement {
    const bar = el("div", { class: "tabs", role: "tablist", "aria-label": "Panels" });
    for (const name of TABS) {
      const tab = button(name, () => this.show(name), { role: "tab", id: `tab-${name}`, "aria-controls": "panel" });
      this.tabs.set(name, tab);
      bar.append(tab);
    }
    bar.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      event.stopPropagation();
      const to = TABS[(TABS.indexOf(this.tab) + step + TABS.length) % TABS.length];
      this.show(to);
      this.tabs.get(to)!.focus();
    });
    return el("aside", { class: "panel", "aria-label": "Cell, numbers and log" }, bar, this.panel);
  }

  private show(tab: Tab): void {
    const before = this.tab;
    this.tab = tab;
    for (const [name, made] of this.tabs) {
      made.setAttribute("aria-selected", String(name === tab));
      made.tabIndex = name === tab ? 0 : -1;
      // While a frame is counted, no number of the model may be seen.
      made.disabled = this.frame !== null && name !== "Count";
    }
    this.panel.setAttribute("aria-labelledby", `tab-${tab}`);
    this.fillPanel();
    if (tab === "Count" && this.frames === null) void this.loadFrames();
    if (tab === "Histogram" && before !== "Histogram") void this.histogram.load();
  }

  private fillPanel(): void {
    const { state } = this;
    if (state === null) {
      refill(this.panel, el("p", { class: "muted" }, "Reading cells and tissue ..."));
      return;
    }
    const act = (action: Action) => void this.act(action);
    if (this.tab === "Cell")
      refill(
        this.panel,
        cellPanel(this.selected.at(-1) ?? null, this.selected.length, this.detail, this.session, {
          locked: this.locked,
          remove: () => this.remove(),
          setClass: (name) => this.setClass(name),
          measure: (name) => {
            this.show("Histogram");
            this.histogram.show(name);
          },
          shown: this.channels.length > 0 ? this.channelText() : "",
          channels: addressOf(this.channels),
        }),
      );
    else if (this.tab === "Numbers") refill(this.panel, numbersPanel(state, this.allNumbers, () => void this.computeAll()));
    else if (this.tab === "Histogram") refill(this.panel, this.histogram.element);
    else if (this.tab === "Count")
      refill(
        this.panel,
        countPanel(this.frames, {
          at: this.frame,
          marks: this.viewer.marks.frame?.marks ?? [],
          edge: this.edge,
          locked: this.locked,
          start: (frame) => this.countFrom(frame),
          done: () => void this.frameDone(),
          stop: () => this.setMode("move"),
          setEdge: (edge) => {
            this.edge = edge;
            this.frames = null;
            this.fillPanel();
            void this.loadFrames();
          },
        }),
      );
    else if (this.tab === "Log") refill(this.panel, logPanel(state, act, (entry) => this.goToEntry(entry)));
    else refill(this.panel, signPanel(state, this.session, act));
  }

  private async computeAll(): Promise<void> {
    say("Computing");
    try {
      const { numbers } = await get<{ numbers: NumberRow[] }>(`${slidePath(this.detail.key)}/numbers`);
      this.allNumbers = numbers;
      this.fillPanel();
      this.panel.querySelector("details")?.setAttribute("open", "");
    } catch (error) {
      alertOf(error);
    }
  }

  private goToEntry(entry: Entry): void {
    const { action } = entry;
    if (action.kind === "draw_region" || action.kind === "scribble") {
      const line = action.kind === "draw_region" ? action.outline : action.line;
      const xs = line.map(([x]) => x);
      const ys = line.map(([, y]) => y);
      const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
      this.viewer.goTo((x0 + x1) / 2, (y0 + y1) / 2, Math.max(0.25, (1.6 * Math.max(x1 - x0, y1 - y0)) / this.stage.clientHeight));
    } else if (action.kind === "add_cell") {
      this.viewer.goTo(action.x_um, action.y_um, 0.25);
    } else if (action.kind === "delete_cells" || action.kind === "set_class") {
      void get<{ cell: Cell }>(`${slidePath(this.detail.key)}/cell/${action.cells[0]}`)
        .then(({ cell }) => {
          this.viewer.goTo(cell.x_um, cell.y_um, 0.25);
          this.select([cell], false);
        })
        .catch(alertOf);
    }
    say(describe(action));
  }

  private fillTools(): void {
    const mode = (name: Mode, label: string, key: string) =>
      button(label, () => this.setMode(name), { "aria-pressed": String(this.viewer.mode === name), "aria-keyshortcuts": key, disabled: name !== "move" && this.locked, title: `${label} (${key.toUpperCase()})` });
    const select = <T extends string>(label: string, values: readonly T[], value: T, set: (value: T) => void) => {
      const made = el(
        "select",
        { "aria-label": label, onchange: () => (set(made.value as T), this.tellHint(), this.stage.focus()) },
        ...values.map((name) => el("option", { value: name, selected: name === value }, name)),
      );
      return made;
    };
    const presets = el("div", { class: "presets", role: "group", "aria-label": "Magnification" }, ...MAGNIFICATIONS.map(([label, um]) => button(label, () => this.viewer.setResolution(um), { class: "quiet", "data-um": um, title: `${um} um per screen pixel` })), button("Fit", () => this.viewer.home(), { class: "quiet", "aria-keyshortcuts": "0" }));
    const m = this.viewer.mode;
    refill(
      this.tools,
      el("div", { class: "group", role: "group", "aria-label": "Mode" }, mode("move", "Look", "v"), mode("add", "Add cell", "a"), mode("draw", "Draw region", "r"), mode("scribble", "Scribble", "s")),
      m === "add" && select("Class of added cells", this.session.classes.map((c) => c.name), this.adding, (value) => (this.adding = value)),
      (m === "draw" || m === "scribble") && select("Region", DRAWN, this.region, (value) => (this.region = value)),
      m === "draw" && select("Add or take away", ["add", "remove"] as const, this.regionMode, (value) => (this.regionMode = value)),
      m === "draw" && button("Close outline", () => void this.closeOutline(), { "aria-keyshortcuts": "Enter" }),
      el("div", { class: "group" }, button("Undo", () => this.undo(), { disabled: this.locked || this.state!.in_force.length === 0, "aria-keyshortcuts": "Control+Z", title: "Undo (Ctrl+Z)" }), button("Redo", () => this.redo(), { disabled: this.locked || this.state!.undone.length === 0, "aria-keyshortcuts": "Control+Shift+Z", title: "Redo (Ctrl+Shift+Z)" })),
      button("Uncertain", () => void this.nextUncertain(1), { "aria-keyshortcuts": "n", title: "Next uncertain CD8+ cell (N)", disabled: this.state === null }),
      el("span", { class: "grow" }),
      presets,
    );
    this.tellPlace();
  }

  private setLayer(name: keyof Layers, on: boolean): void {
    this.viewer.layers[name].on = on;
    this.toggles.get(name)!.checked = on;
    this.viewer.redraw();
    say(`${name} ${on ? "shown" : "hidden"}`);
  }

  private makeLook() {
    return lookOf(this.by, this.showOther, this.session, this.detail.markers);
  }

  private relook(): void {
    this.viewer.look = this.makeLook();
    this.viewer.redraw();
    this.fillLegend();
  }

  private fillLegend(): void {
    refill(this.legend, ...this.viewer.look.legend.map(({ label, colour }) => el("li", {}, swatch(colour), label)));
  }

  private tellPlace(): void {
    const r = this.viewer.osd.world?.getItemCount() ? this.viewer.resolution : null;
    if (r === null) return;
    const [x, y] = this.hover;
    this.place.textContent = `x ${Math.round(x)}, y ${Math.round(y)} um  \u00b7  ${figure(10 / r)}\u00d7  \u00b7  ${figure(r)} um/px`;
    const nice = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000].findLast((um) => um / r <= 140) ?? 1;
    if (this.scale.dataset.um !== `${nice} ${r}`) {
      this.scale.dataset.um = `${nice} ${r}`;
      const bar = el("span", { class: "bar-line" });
      bar.style.width = `${nice / r}px`;
      refill(this.scale, bar, nice >= 1000 ? `${nice / 1000} mm` : `${nice} um`);
      for (const made of this.tools.querySelectorAll<HTMLElement>("[data-um]")) made.toggleAttribute("data-near", Math.abs(Math.log2(Number(made.dataset.um) / r)) < 0.15);
    }
    if (this.viewer.mode === "draw" && this.viewer.marks.outline.length > 0 && !this.keyboard) this.viewer.marks.cursor = this.hover;
  }

  /** Whether the last thing done was done with a key: the cross is shown, and stands for the pointer. */
  private keyboard = false;

  // Keys ------------------------------------------------------------------------------------------------------

  private key(event: KeyboardEvent): void {
    const target = event.target as HTMLElement;
    if (this.help.open || target.closest("input:not([type=checkbox]):not([type=range]), textarea, select")) return;
    const ctrl = event.ctrlKey || event.metaKey;
    const inStage = this.stage.contains(target) || target === document.body;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const centre = () => this.viewer.centre;
    const always: Record<string, () => void> = ctrl
      ? { z: () => (event.shiftKey ? this.redo() : this.undo()), y: () => this.redo() }
      : {
          "1": () => this.toggle("cells"),
          "2": () => this.toggle("regions"),
          "3": () => this.toggle("zones"),
          "4": () => this.toggle("density"),
          "5": () => this.toggle("excluded"),
          o: () => document.getElementById("other")!.click(),
          v: () => this.setMode("move"),
          a: () => (this.viewer.mode === "count" ? this.mark(...centre()) : this.viewer.mode === "add" ? void this.add(...centre()) : this.setMode("add")),
          r: () => this.setMode("draw"),
          s: () => this.setMode("scribble"),
          d: () => this.remove(),
          Delete: () => this.remove(),
          c: () => this.setClass(),
          n: () => void this.nextUncertain(event.shiftKey ? -1 : 1),
          "[": () => this.step(-1),
          "]": () => this.step(1),
          "?": () => this.help.showModal(),
          Escape: () => (this.viewer.marks.outline.length > 0 ? this.setMode(this.viewer.mode) : this.viewer.mode !== "move" ? this.setMode("move") : this.select([])),
        };
    const within: Record<string, () => void> = ctrl
      ? {}
      : {
          ArrowLeft: () => this.viewer.panBy(-0.12, 0),
          ArrowRight: () => this.viewer.panBy(0.12, 0),
          ArrowUp: () => this.viewer.panBy(0, -0.12),
          ArrowDown: () => this.viewer.panBy(0, 0.12),
          "+": () => this.viewer.zoomBy(1.5),
          "=": () => this.viewer.zoomBy(1.5),
          "-": () => this.viewer.zoomBy(1 / 1.5),
          "0": () => this.viewer.home(),
          Enter: () => (this.viewer.mode === "draw" || this.viewer.mode === "scribble" ? void this.closeOutline() : void this.pick(...centre(), event.shiftKey)),
          " ": () => {
            if (this.viewer.mode === "draw" || this.viewer.mode === "scribble") this.addVertex(centre());
          },
          Backspace: () => {
            this.viewer.marks.outline.pop();
            this.viewer.redraw();
            this.tellHint();
          },
        };
    const does = always[key] ?? (inStage ? within[key] : undefined);
    if (does === undefined) return;
    // While a frame is counted, nothing of the model may be seen.
    if (this.viewer.mode === "count" && ["n", "c", "d", "Delete", "r", "s", "Enter", "[", "]"].includes(key)) return;
    event.preventDefault();
    this.keyboard = true;
    this.viewer.marks.cursor = null;
    does();
    this.stage.addEventListener("pointermove", () => (this.keyboard = false), { once: true });
  }

  private toggle(name: keyof Layers): void {
    this.setLayer(name, !this.viewer.layers[name].on);
  }

  private step(by: number): void {
    const at = this.list.findIndex(({ key }) => key === this.detail.key);
    const to = this.list[at + by];
    if (to && to.error === null) location.hash = `#/slide/${encodeURIComponent(to.key)}`;
  }
}

function helpDialog(): HTMLDialogElement {
  const keys: [string, string][] = [
    ["Arrow keys", "move"],
    ["+  \u2212  0", "zoom in, out, fit"],
    ["1 2 3 4 5", "cells, regions, zones, density, not assessed"],
    ["O", "other nuclei"],
    ["Enter", "pick the cell at the cross; Shift adds to the selection"],
    ["N, Shift+N", "next, previous uncertain CD8+ cell"],
    ["C", "change the class of what is selected"],
    ["D", "delete what is selected"],
    ["A", "add cells; again: one at the cross"],
    ["R", "draw a region; Space a vertex, Enter closes, Backspace back"],
    ["S", "scribble: from lines the tissue of the slide is told anew"],
    ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
    ["[  ]", "previous, next slide"],
    ["Esc", "stop what is going on"],
  ];
  const dialog = el("dialog", { class: "help", "aria-labelledby": "help-title" });
  put(
    dialog,
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", {}, ...keys.flatMap(([name, what]) => [el("dt", {}, el("kbd", {}, name)), el("dd", {}, what)])),
    el("p", { class: "muted" }, "Click picks a cell, Shift-click one more. The wheel zooms, dragging moves."),
    button("Close", () => dialog.close(), { class: "main" }),
  );
  return dialog;
}

/** Channels as the server reads them from an address. */
function addressOf(channels: Channel[]): string {
  return channels.map((c) => `${c.index}:${hex(c.colour).slice(1)}:${c.low.toFixed(3)}:${c.high.toFixed(3)}`).join(",");
}

function hex(colour: readonly number[]): string {
  return `#${colour.map((part) => part.toString(16).padStart(2, "0")).join("")}`;
}

function unhex(text: string): [number, number, number] {
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16)) as [number, number, number];
}
