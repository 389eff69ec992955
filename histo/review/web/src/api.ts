// What the server says and takes. Names and units are the server's.

export type Rgb = [number, number, number];
export type Named = { name: string; colour: Rgb | null };

export interface Session {
  version: string;
  reader: string;
  blinded: boolean;
  write: string;
  classes: { name: string; colour: Rgb }[];
  regions: { name: string; colour: Rgb }[];
  zones: Named[];
  verdicts: string[];
  tile_um: number;
  block_um: number;
}

export interface Flag {
  code: string;
  message: string;
}

export interface Row {
  key: string;
  label: string;
  site: string | null;
  patient: string | null;
  error: string | null;
  numbers: {
    n_cd8: number;
    cd8_density_per_mm2: number | null;
    core_per_mm2: number | null;
    log2_core_outer: number | null;
    phenotype: string | null;
    assessed_area_mm2: number;
  } | null;
  flags: Flag[];
  not_assessable: string | null;
  uncertain_share: number | null;
  state: "not looked at" | "in review" | "signed";
  n_corrections: number;
  signed: { name: string; verdict: string; comment: string; at_utc: string } | null;
  need: number;
  why: string[];
}

export interface Channel {
  name: string;
  index: number;
  colour: Rgb;
  low: number;
  high: number;
  /** Whether it is shown at first: more than three at once are mud. */
  shown: boolean;
}

export interface Detail {
  key: string;
  label: string;
  site: string | null;
  patient: string | null;
  kind: "brightfield" | "fluorescence";
  size_px: [number, number];
  mpp: number;
  size_um: [number, number];
  tile_px: number;
  max_level: number;
  channels: Channel[];
  planes: string[];
  flags: Flag[];
  measurements: string[];
  markers: string[];
  n_cells: number;
  /** um per pixel of the maps. */
  map_um: Record<"zones" | "density" | "excluded", number>;
}

export interface Estimate {
  value: number | null;
  low: number | null;
  high: number | null;
  unit: string;
  not_assessable: string | null;
}

export interface NumberRow {
  name: string;
  label: string;
  old: Estimate | null;
  new: Estimate | null;
}

export type Point = [number, number];

export type Action =
  | { kind: "delete_cells"; cells: number[] }
  | { kind: "add_cell"; x_um: number; y_um: number; cell_class: string }
  | { kind: "set_class"; cells: number[]; cell_class: string }
  | { kind: "draw_region"; region: string; mode: "add" | "remove"; outline: Point[] }
  | { kind: "scribble"; region: string; line: Point[] }
  | { kind: "set_gate"; marker: string; threshold: number | null }
  | { kind: "count_frame"; frame: number; x_um: number; y_um: number; edge_um: number; marks: Point[] }
  | { kind: "undo"; entry: number }
  | { kind: "redo"; entry: number }
  | { kind: "sign"; name: string; verdict: string; comment: string }
  | { kind: "reopen"; reason: string };

export interface Entry {
  number: number;
  at_utc: string;
  by: string;
  fingerprint: string;
  blinded: boolean;
  action: Action;
}

export interface State {
  revision: string;
  entries: Entry[];
  in_force: number[];
  undone: number[];
  signed: Entry | null;
  stale: number;
  notes: string[];
  numbers: NumberRow[];
  phenotypes: Record<"old" | "new", { value: string | null; not_assessable: string | null }>;
  outlines: Record<string, Point[][]>;
  gates: Record<string, number>;
  gates_of_run: Record<string, number>;
  entry?: number;
}

export interface Cell {
  cell_id: number;
  x_um: number;
  y_um: number;
  in_tissue: boolean;
  region: string;
  zone: string;
  signed_distance_um: number | null;
  cell_class: string;
  class_of_run?: string;
  deleted?: boolean;
  added?: boolean;
  measurements?: Record<string, number | string | boolean | null>;
}

export interface Histogram {
  name: string;
  edges: number[];
  cd8: number[];
  other: number[];
  n_cd8: number;
  sorted_cd8: number[];
  marker?: string | null;
  gate?: number | null;
  gate_of_run?: number | null;
}

export interface Frames {
  frames: Point[];
  reader: (number | null)[];
  marks: Record<number, Point[]>;
  /** None before every frame is counted. */
  model: number[] | null;
  concordance: Estimate | null;
  ratio: Estimate | null;
}

export class ServerError extends Error {}

let session: Session | null = null;

export async function getSession(again = false): Promise<Session> {
  if (session === null || again) session = await get<Session>("/api/session");
  return session;
}

export async function get<T>(path: string): Promise<T> {
  return (await answered(await reach(path))).json() as Promise<T>;
}

export async function getBytes(path: string): Promise<ArrayBuffer> {
  return (await answered(await reach(path))).arrayBuffer();
}

/** Write a correction; it is on the server's disk when this returns. */
export async function act(key: string, action: Action): Promise<State> {
  const path = `${slidePath(key)}/log`;
  let answer = await post(path, action);
  if (answer.status === 403) {
    // The server was started anew: so was its write token. Nothing was written.
    await getSession(true);
    answer = await post(path, action);
  }
  return (await answered(answer)).json() as Promise<State>;
}

export function slidePath(key: string): string {
  return `/api/slides/${encodeURIComponent(key)}`;
}

async function post(path: string, body: unknown): Promise<Response> {
  const { write } = await getSession();
  return reach(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-histo-write": write },
    body: JSON.stringify(body),
  });
}

async function reach(path: string, init?: RequestInit): Promise<Response> {
  try {
    return await fetch(path, { credentials: "same-origin", ...init });
  } catch {
    throw new ServerError("The server does not answer. Start histo review again; nothing confirmed is lost.");
  }
}

async function answered(response: Response): Promise<Response> {
  if (response.ok) return response;
  let told = `The server refused (${response.status}).`;
  try {
    told = ((await response.json()) as { error: string }).error;
  } catch {
    // No word of why.
  }
  throw new ServerError(told);
}
