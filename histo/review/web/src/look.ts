// How cells are coloured.

import type { Session } from "./api";
import { DELETED, IN_TISSUE, type Tile, UNKNOWN } from "./cells";
import { rgb } from "./dom";

export type By = "class" | "confidence" | "zone" | `state:${string}`;

export interface Look {
  by: By;
  showOther: boolean;
  /** Names this look: what was drawn with another one is drawn anew. */
  name: string;
  /** Index into `colours`, or -1 for a cell that is not shown. */
  indexOf: (tile: Tile, k: number) => number;
  colours: string[];
  /** The same as 0xAABBGGRR, for pixels. */
  packed: Uint32Array;
  legend: { label: string; colour: readonly number[] }[];
}

const GREY = [120, 120, 128] as const;
const POSITIVE = [214, 39, 196] as const;
const NEGATIVE = [20, 150, 170] as const;
// From unsure to sure, told apart in grey as well.
const SURE: readonly (readonly number[])[] = [
  [253, 190, 60],
  [235, 120, 60],
  [190, 60, 90],
  [120, 30, 110],
  [60, 15, 90],
];
const STEPS = [0.5, 0.6, 0.7, 0.8, 0.9];

export function lookOf(by: By, showOther: boolean, session: Session, markers: string[]): Look {
  const cd8 = session.classes[0].colour;
  const other = session.classes[1].colour;
  const shown = (tile: Tile, k: number) => showOther || tile.isCd8[k] === 1;
  let list: (readonly number[])[];
  let legend: Look["legend"];
  let pick: (tile: Tile, k: number) => number;
  if (by === "confidence") {
    list = [...SURE, GREY];
    legend = [...SURE.map((colour, k) => ({ label: k === 0 ? "below 0.6" : `${STEPS[k]} and more`, colour })), { label: "no probability", colour: GREY }];
    pick = (tile, k) => {
      const p = tile.probability[k];
      return p === UNKNOWN ? SURE.length : Math.min(SURE.length - 1, Math.max(0, Math.floor((p / 254 - 0.5) * 10)));
    };
  } else if (by === "zone") {
    list = session.zones.map((zone) => zone.colour ?? GREY);
    legend = session.zones.map((zone, k) => ({ label: zone.name === "" ? "no zone" : zone.name.replace("_", " "), colour: list[k] }));
    pick = (tile, k) => tile.zone[k];
  } else if (by.startsWith("state:")) {
    const bit = 1 << markers.indexOf(by.slice(6));
    list = [POSITIVE, NEGATIVE, GREY];
    legend = [
      { label: `CD8+ ${by.slice(6)}+`, colour: POSITIVE },
      { label: `CD8+ ${by.slice(6)}\u2212`, colour: NEGATIVE },
      { label: "other nucleus", colour: GREY },
    ];
    pick = (tile, k) => (tile.isCd8[k] === 0 ? 2 : tile.positive[k] & bit ? 0 : 1);
  } else {
    list = [cd8, other];
    legend = session.classes.map(({ name, colour }) => ({ label: name, colour }));
    pick = (tile, k) => (tile.isCd8[k] === 1 ? 0 : 1);
  }
  // A cell that was deleted, or lies outside assessed tissue, is paler.
  const pale = list.length;
  const colours = [...list.map((colour) => rgb(colour)), rgb([130, 130, 130], 0.7)];
  const packed = new Uint32Array([...list, [130, 130, 130]].map(([r, g, b], k) => ((k === pale ? 0x80 : 0xff) << 24) | (b << 16) | (g << 8) | r));
  return {
    by,
    showOther,
    name: `${by} ${showOther}`,
    indexOf: (tile, k) => (!shown(tile, k) ? -1 : tile.flags[k] & DELETED || !(tile.flags[k] & IN_TISSUE) ? pale : pick(tile, k)),
    colours,
    packed,
    legend: [...legend, { label: "deleted, or outside assessed tissue", colour: [130, 130, 130] }],
  };
}
