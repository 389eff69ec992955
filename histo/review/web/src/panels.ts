// The panels beside the slide: a cell, the numbers, a histogram, the log and the signature.

import { type Action, type Cell, type Detail, type Entry, type Estimate, type Frames, get, type Histogram, type NumberRow, type Point, type Session, slidePath, type State } from "./api";
import { alertOf, button, el, figure, put, refill } from "./dom";

const SVG = "http://www.w3.org/2000/svg";
const HEADLINES = ["n_cd8", "cd8_density_per_mm2", "cd8_density_core_per_mm2", "cd8_density_inner_margin_per_mm2", "cd8_density_outer_margin_per_mm2", "cd8_density_far_per_mm2", "log2_core_outer", "assessed_area_mm2"];
// And what names of markers follow.
const POSITIVE = "positive_fraction_";

export function words(name: string): string {
  return name.replaceAll("_", " ").replace(/\bcd8\b/g, "CD8").replace(/ um2$/, " (um\u00b2)").replace(/ um$/, " (um)").replace(/ px$/, " (px)");
}

// Numbers -----------------------------------------------------------------------------------------------------

export function numbersPanel(state: State, all: NumberRow[] | null, onall: () => void): HTMLElement {
  const rows = all ?? state.numbers;
  const changed = rows.filter(differs).length;
  const head = HEADLINES.flatMap((name) => rows.filter((row) => row.name === name));
  head.push(...rows.filter((row) => row.name.startsWith(POSITIVE)));
  const rest = rows.filter((row) => !head.includes(row));
  const { old, new: now } = state.phenotypes;
  const n = state.in_force.length;
  return el(
    "div",
    { class: "numbers" },
    el("p", { class: "muted" }, n === 0 ? "No corrections: the numbers are those of the run." : `${n === 1 ? "1 correction" : `${n} corrections`}; ${changed} of ${rows.length} numbers changed.`),
    numberTable("Numbers of the run and with the corrections", head, {
      label: "Phenotype",
      old: old.value ?? "NA",
      now: now.value ?? "NA",
      reason: now.not_assessable,
    }),
    el("details", {}, el("summary", {}, `${rest.length} more`), numberTable("Further numbers", rest)),
    all === null
      ? button("Compute spatial measures too", onall, { class: "quiet" })
      : el("p", { class: "muted small" }, "With spatial measures, as of this moment."),
  );
}

function numberTable(caption: string, rows: NumberRow[], phenotype?: { label: string; old: string; now: string; reason: string | null }): HTMLElement {
  return el(
    "table",
    { class: "figures" },
    el("caption", { class: "unseen" }, caption),
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Measure"), el("th", { scope: "col", class: "number" }, "Run"), el("th", { scope: "col", class: "number" }, "Corrected"))),
    el(
      "tbody",
      {},
      ...rows.map((row) =>
        el(
          "tr",
          { class: differs(row) ? "changed" : "", "data-name": row.name },
          el("th", { scope: "row" }, row.label, " ", el("span", { class: "unit" }, unitOf(row.new ?? row.old))),
          el("td", { class: "number old" }, estimate(row.old)),
          el("td", { class: "number new" }, estimate(row.new)),
        ),
      ),
      phenotype &&
        el(
          "tr",
          { class: phenotype.old === phenotype.now ? "" : "changed", "data-name": "phenotype" },
          el("th", { scope: "row" }, phenotype.label),
          el("td", { class: "number old" }, phenotype.old),
          el("td", { class: "number new", title: phenotype.reason }, phenotype.now),
        ),
    ),
  );
}

function unitOf(estimate: Estimate | null): string {
  const unit = estimate?.unit ?? "";
  return unit === "cells" || unit.includes("ratio") || unit.includes("fraction") ? "" : unit.replace("mm2", "mm\u00b2");
}

function estimate(value: Estimate | null): HTMLElement | string {
  if (value === null) return "\u2013";
  if (value.value === null) return el("span", { class: "na", title: value.not_assessable }, "NA", el("span", { class: "unseen" }, `: ${value.not_assessable}`));
  const range = value.low === null || value.high === null ? null : `${figure(value.low)} to ${figure(value.high)}`;
  return el("span", { title: range === null ? null : `interval ${range}` }, figure(value.value));
}

function differs(row: NumberRow): boolean {
  return row.old !== null && row.new !== null && (row.old.value ?? null) !== (row.new.value ?? null) && !(row.old.value !== null && row.new.value !== null && Math.abs(row.old.value - row.new.value) <= 1e-9 * Math.abs(row.old.value));
}

// A cell ------------------------------------------------------------------------------------------------------

export interface CellTools {
  locked: boolean;
  remove: () => void;
  setClass: (name: string) => void;
  measure: (name: string) => void;
  /** Channels of fluorescence for the addresses of crops: those that are shown, and all. */
  shown: string;
  channels: string;
}

export function cellPanel(cell: Cell | null, nSelected: number, detail: Detail, session: Session, tools: CellTools): HTMLElement {
  if (cell === null)
    return el("div", { class: "cell" }, el("p", { class: "muted" }, "Click a cell, or press Enter for the one at the cross, or N for the next uncertain one."));
  const planes = el("div", { class: "planes" });
  detail.planes.forEach((plane, k) => {
    if (plane === "residual" && detail.kind === "brightfield") return;
    const path = `${slidePath(detail.key)}/crop/${k}.jpg?x=${cell.x_um.toFixed(2)}&y=${cell.y_um.toFixed(2)}`;
    const channels = k === 0 ? tools.shown : tools.channels;
    const src = channels ? `${path}&channels=${encodeURIComponent(channels)}` : path;
    put(planes, el("figure", {}, el("img", { src, width: 92, height: 92, alt: `${plane}, 48 um around the cell` }), el("figcaption", { title: plane }, plane)));
  });
  const other = session.classes.map(({ name }) => name).filter((name) => name !== cell.cell_class);
  const distance = cell.signed_distance_um;
  const facts: [string, string][] = [
    ["Class", cell.cell_class + (cell.class_of_run && cell.class_of_run !== cell.cell_class ? ` (run: ${cell.class_of_run})` : "")],
    ["Tumour border", distance === null ? "not known" : `${figure(Math.abs(distance))} um ${distance < 0 ? "inside" : "outside"}`],
    ["Zone", cell.zone === "" ? "none" : cell.zone.replace("_", " ")],
    ["Region", cell.region === "" ? "none" : cell.region],
    ["Assessed", cell.in_tissue ? "yes" : "no: it does not count"],
    ["Position", `${figure(Math.round(cell.x_um))}, ${figure(Math.round(cell.y_um))} um`],
  ];
  const measurements = Object.entries(cell.measurements ?? {}).filter(([name]) => name !== "cell_class" && !name.endsWith("_px"));
  return el(
    "div",
    { class: "cell" },
    el("h2", {}, cell.added ? "Added cell" : `Cell ${cell.cell_id}`, cell.deleted && el("span", { class: "chip bad" }, "deleted"), nSelected > 1 && el("span", { class: "chip" }, `${nSelected} selected`)),
    planes,
    el(
      "div",
      { class: "buttons" },
      ...other.map((name) => button(`Make ${name}`, () => tools.setClass(name), { disabled: tools.locked || cell.deleted === true, "aria-keyshortcuts": "c" })),
      button("Delete", tools.remove, { disabled: tools.locked || cell.deleted === true, class: "danger", "aria-keyshortcuts": "d" }),
    ),
    el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    measurements.length > 0 && el("h3", {}, "Measurements"),
    measurements.length > 0 &&
      el(
        "dl",
        { class: "measurements" },
        ...measurements.flatMap(([name, value]) => [
          el("dt", {}, detail.measurements.includes(name) ? button(words(name), () => tools.measure(name), { class: "link", title: "Show its histogram" }) : words(name)),
          el("dd", {}, typeof value === "number" ? figure(value) : String(value ?? "NA")),
        ]),
      ),
  );
}

// A histogram -------------------------------------------------------------------------------------------------

export class HistogramPanel {
  readonly element = el("div", { class: "histogram" });
  private select: HTMLSelectElement;
  private body = el("div");
  /** Called with a gate that is to be kept; null: that of the batch. */
  onset: (marker: string, threshold: number | null) => void = () => {};

  constructor(
    private detail: Detail,
    private locked: () => boolean,
  ) {
    const names = detail.measurements;
    this.select = el("select", { id: "measurement", onchange: () => void this.load() }, ...names.map((name) => el("option", { value: name }, words(name))));
    const first = names.find((name) => name === "cd8_ring_mean");
    if (first !== undefined) this.select.value = first;
    put(this.element, el("label", { for: "measurement" }, "Measurement"), this.select, this.body);
  }

  show(name: string): void {
    this.select.value = name;
    void this.load();
  }

  async load(): Promise<void> {
    try {
      const path = `${slidePath(this.detail.key)}/histogram?measurement=${encodeURIComponent(this.select.value)}`;
      this.fill(await get<Histogram>(path));
    } catch (error) {
      alertOf(error);
    }
  }

  private fill(data: Histogram): void {
    if (data.edges.length === 0) {
      refill(this.body, el("p", { class: "muted" }, "No cell in assessed tissue has a value."));
      return;
    }
    const [low, high] = [data.edges[0], data.edges[data.edges.length - 1]];
    const [width, height] = [296, 130];
    const at = (value: number) => ((value - low) / (high - low)) * width;
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `Histogram of ${words(data.name)}: ${data.n_cd8} CD8+ cells, and the other nuclei`);
    // Each class to its own height: CD8+ cells are few among many.
    for (const [counts, kind] of [[data.other, "other"], [data.cd8, "cd8"]] as const) {
      const most = Math.max(1, ...counts);
      const step = width / counts.length;
      const path = document.createElementNS(SVG, "path");
      const points = counts.map((count, k) => `L${(k * step).toFixed(1)} ${(height - (count / most) * (height - 8)).toFixed(1)}h${step.toFixed(2)}`);
      path.setAttribute("d", `M0 ${height}${points.join("")}L${width} ${height}Z`);
      path.setAttribute("class", kind);
      svg.append(path);
    }
    const line = document.createElementNS(SVG, "line");
    line.setAttribute("class", "gate");
    line.setAttribute("y1", "0");
    line.setAttribute("y2", String(height));
    svg.append(line);
    const start = data.gate ?? data.sorted_cd8[Math.floor(data.sorted_cd8.length / 2)] ?? (low + high) / 2;
    const slider = el("input", { type: "range", id: "gate", min: low, max: high, step: (high - low) / 1000, "aria-label": `Threshold of ${words(data.name)}` });
    const told = el("p", { class: "gate-counts", "aria-live": "polite" });
    const above = (threshold: number) => {
      const { sorted_cd8: values } = data;
      let k = values.findIndex((value) => value > threshold);
      if (k < 0) k = values.length;
      return Math.round(((values.length - k) / Math.max(1, values.length)) * data.n_cd8);
    };
    const before = data.gate === null || data.gate === undefined ? null : above(data.gate);
    let threshold = start;
    const move = (value: number) => {
      threshold = Math.min(high, Math.max(low, value));
      slider.value = String(threshold);
      line.setAttribute("x1", String(at(threshold)));
      line.setAttribute("x2", String(at(threshold)));
      const n = above(threshold);
      const share = figure((100 * n) / Math.max(1, data.n_cd8));
      const change = before === null ? "" : n === before ? ", as with the gate in force" : `, ${n > before ? "+" : "\u2212"}${figure(Math.abs(n - before))} against the gate in force`;
      refill(told, el("strong", {}, figure(threshold)), `: ${figure(n)} of ${figure(data.n_cd8)} CD8+ cells above (${share} %)${change}`);
    };
    slider.addEventListener("input", () => move(Number(slider.value)));
    const drag = (event: PointerEvent) => {
      const box = svg.getBoundingClientRect();
      move(low + ((event.clientX - box.left) / box.width) * (high - low));
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      drag(event);
    });
    svg.addEventListener("pointermove", (event) => event.buttons & 1 && drag(event));
    move(start);
    const { marker } = data;
    refill(
      this.body,
      svg,
      el("div", { class: "axis", "aria-hidden": "true" }, el("span", {}, figure(low)), el("span", {}, figure(high))),
      slider,
      told,
      el("p", { class: "legend" }, el("span", { class: "key cd8" }), "CD8+ cells ", el("span", { class: "key other" }), "other nuclei, each to its own height"),
      marker
        ? el(
            "div",
            { class: "buttons" },
            button(`Set the gate of ${marker} on this slide`, () => this.onset(marker, threshold), { disabled: this.locked() }),
            data.gate !== data.gate_of_run && button("Back to the gate of the batch", () => this.onset(marker, null), { disabled: this.locked() }),
          )
        : el("p", { class: "muted small" }, "No gate rests on this measurement: the line is for looking only."),
    );
  }
}

// The log and the signature -----------------------------------------------------------------------------------

export function describe(action: Action): string {
  switch (action.kind) {
    case "delete_cells":
      return action.cells.length === 1 ? "deleted a cell" : `deleted ${action.cells.length} cells`;
    case "add_cell":
      return `added a ${action.cell_class}`;
    case "set_class":
      return `${action.cells.length === 1 ? "a cell is" : `${action.cells.length} cells are`} ${action.cell_class}`;
    case "draw_region":
      return action.mode === "add" ? `drew ${action.region}` : `took from ${action.region}`;
    case "scribble":
      return `scribbled ${action.region}`;
    case "set_gate":
      return action.threshold === null ? `gate of ${action.marker} back to the batch` : `gate of ${action.marker} at ${figure(action.threshold)}`;
    case "count_frame":
      return `counted ${action.marks.length} in frame ${action.frame}`;
    case "undo":
      return `took back ${action.entry}`;
    case "redo":
      return `made ${action.entry} again`;
    case "sign":
      return `signed: ${action.verdict}`;
    case "reopen":
      return `reopened: ${action.reason}`;
  }
}

export function logPanel(state: State, act: (action: Action) => void, go: (entry: Entry) => void): HTMLElement {
  const items = [...state.entries].reverse().map((entry) => {
    const inForce = state.in_force.includes(entry.number);
    const undone = state.undone.includes(entry.number);
    const correction = !["undo", "redo", "sign", "reopen", "count_frame"].includes(entry.action.kind);
    const time = entry.at_utc.slice(0, 16).replace("T", " ");
    return el(
      "li",
      { class: undone ? "undone" : "" },
      el("span", { class: "who" }, `${entry.number}. ${entry.by}, ${time} UTC`),
      el("span", { class: "what" }, describe(entry.action), undone && el("span", { class: "chip" }, "taken back"), correction && !undone && !inForce && el("span", { class: "chip warn" }, "on an earlier result")),
      el(
        "span",
        { class: "buttons" },
        (entry.action.kind === "draw_region" || entry.action.kind === "scribble" || entry.action.kind === "add_cell" || entry.action.kind === "delete_cells" || entry.action.kind === "set_class") && button("Show", () => go(entry), { class: "quiet", "aria-label": `Show entry ${entry.number}` }),
        correction && state.signed === null && (undone ? button("Redo", () => act({ kind: "redo", entry: entry.number }), { class: "quiet", "aria-label": `Redo entry ${entry.number}` }) : button("Undo", () => act({ kind: "undo", entry: entry.number }), { class: "quiet", "aria-label": `Undo entry ${entry.number}` })),
      ),
    );
  });
  return el(
    "div",
    { class: "log" },
    ...state.notes.map((note) => el("p", { class: "note" }, note)),
    state.stale > 0 && el("p", { class: "note" }, `${state.stale} corrections of cells were made on an earlier result and do not apply to this one.`),
    items.length === 0 ? el("p", { class: "muted" }, "Nothing yet. Every correction is listed here with who and when; the run's own results are never changed.") : el("ol", { reversed: true }, ...items),
  );
}

// Counting frames ---------------------------------------------------------------------------------------------

export interface CountTools {
  at: number | null;
  marks: Point[];
  edge: number;
  locked: boolean;
  start: (frame: number) => void;
  done: () => void;
  stop: () => void;
  setEdge: (edge: number) => void;
}

export function countPanel(frames: Frames | null, tools: CountTools): HTMLElement {
  if (frames === null) return el("p", { class: "muted" }, "Drawing frames ...");
  const { at } = tools;
  const size = el(
    "select",
    { id: "edge", disabled: at !== null, onchange: () => tools.setEdge(Number(size.value)) },
    ...[100, 150, 200, 250, 500].map((um) => el("option", { value: um, selected: um === tools.edge }, `${um} \u00d7 ${um} um`)),
  );
  const next = frames.reader.findIndex((n) => n === null);
  const told = (estimate: Estimate | null) => (estimate === null ? "" : estimate.value === null ? `NA (${estimate.not_assessable})` : figure(estimate.value));
  return el(
    "div",
    { class: "count" },
    at === null
      ? el("p", { class: "muted" }, "Random fields of assessed tissue, the same for every reader. While you count, nothing of the model is shown; its counts appear once every frame is counted.")
      : el("p", {}, el("strong", {}, `Frame ${at + 1} of ${frames.frames.length}: ${tools.marks.length} CD8+ cells`), el("br"), el("span", { class: "muted" }, "Click a cell whose centre lies in the frame; click its mark again to take it back. From the keyboard, A marks at the cross.")),
    el("label", { for: "edge" }, "Size"),
    size,
    el(
      "div",
      { class: "buttons" },
      at === null
        ? button(next < 0 ? "Count again from the first" : next === 0 ? "Begin counting" : `Go on with frame ${next + 1}`, () => tools.start(Math.max(0, next)), { class: "main", disabled: tools.locked || frames.frames.length === 0 })
        : button("Done with this frame", tools.done, { class: "main" }),
      at !== null && button("Stop counting", tools.stop),
    ),
    frames.frames.length === 0 && el("p", { class: "note" }, "The assessed tissue holds no frame of this size."),
    el(
      "table",
      { class: "figures" },
      el("caption", { class: "unseen" }, "Counts by frame"),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Frame"), el("th", { scope: "col", class: "number" }, "You"), el("th", { scope: "col", class: "number" }, "Model"))),
      el("tbody", {}, ...frames.reader.map((n, k) => el("tr", {}, el("th", { scope: "row" }, k + 1), el("td", { class: "number" }, n === null ? "\u2013" : figure(n)), el("td", { class: "number" }, frames.model === null ? "hidden" : figure(frames.model[k]))))),
    ),
    frames.model !== null &&
      el(
        "p",
        {},
        `Concordance ${told(frames.concordance)}; the model counts ${told(frames.ratio)} times what you count`,
        frames.ratio?.low != null && frames.ratio.high !== null ? ` (95 % limits of agreement ${figure(frames.ratio.low)} to ${figure(frames.ratio.high)}).` : ".",
      ),
  );
}

export function signPanel(state: State, session: Session, act: (action: Action) => void): HTMLElement {
  const signed = state.signed;
  if (signed !== null && signed.action.kind === "sign") {
    const reason = el("textarea", { id: "reason", rows: 2, maxlength: 4000 });
    return el(
      "div",
      { class: "sign" },
      el("p", { class: "signed" }, el("strong", {}, `Signed: ${signed.action.verdict}`), el("br"), `${signed.action.name} (${signed.by}), ${signed.at_utc.slice(0, 16).replace("T", " ")} UTC`, signed.action.comment && el("q", {}, signed.action.comment)),
      el("p", { class: "muted" }, "The slide is locked."),
      el("details", {}, el("summary", {}, "Reopen"), el("label", { for: "reason" }, "Why it is opened again"), reason, button("Reopen the slide", () => reason.value.trim() && act({ kind: "reopen", reason: reason.value.trim() }))),
    );
  }
  const name = el("input", { id: "signer", value: session.reader, maxlength: 100, autocomplete: "off", required: true });
  const comment = el("textarea", { id: "comment", rows: 3, maxlength: 4000 });
  const suggested = state.in_force.length > 0 ? 1 : 0;
  const verdicts = session.verdicts.map((verdict, k) => el("label", { class: "inline" }, el("input", { type: "radio", name: "verdict", value: verdict, checked: k === suggested }), verdict));
  const form = el(
    "form",
    {
      class: "sign",
      onsubmit: (event: Event) => {
        event.preventDefault();
        const verdict = form.querySelector<HTMLInputElement>("input[name=verdict]:checked")!.value;
        act({ kind: "sign", name: name.value.trim(), verdict, comment: comment.value.trim() });
      },
    },
    el("label", { for: "signer" }, "Name"),
    name,
    el("fieldset", {}, el("legend", {}, "Verdict"), ...verdicts),
    el("label", { for: "comment" }, "Comment"),
    comment,
    el("button", { type: "submit", class: "main" }, "Sign and lock the slide"),
  );
  return form;
}
