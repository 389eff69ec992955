// Another slide beside the one that is reviewed, e.g. the serial section: laid next to it by hand, then locked.

import OpenSeadragon from "openseadragon";
import type { Detail } from "./api";
import { el, put } from "./dom";
import { holder, openViewer, tilesOf, widthUm } from "./osd";
import type { Viewer } from "./viewer";

export class Beside {
  readonly element = el("div", { class: "beside" });
  private osd: OpenSeadragon.Viewer;
  private label = el("div", { class: "beside-label" });
  /** Centres of both, in um, that lie on each other; null while each moves alone. */
  private lock: { main: [number, number]; own: [number, number] } | null = null;
  private degrees = 0;
  private following = false;

  constructor(
    private main: Viewer,
    private detail: Detail,
  ) {
    const box = holder();
    put(this.element, box, this.label);
    this.element.classList.toggle("dark", detail.kind === "fluorescence");
    this.osd = openViewer(
      box,
      tilesOf(detail, () => ""),
    );
    this.osd.addHandler("update-viewport", () => {
      const [x, y] = this.centre;
      this.label.textContent = `${detail.label}  \u00b7  centre x ${Math.round(x)}, y ${Math.round(y)} um`;
      this.lead();
    });
  }

  close(): void {
    this.osd.destroy();
    this.element.remove();
  }

  turn(degrees: number): void {
    this.degrees = degrees;
    this.osd.viewport?.setRotation(degrees, true);
    if (this.lock !== null) this.setLock(true);
  }

  /** Lock both together as they lie now, or let each move alone. */
  setLock(on: boolean): void {
    this.lock = on ? { main: this.main.centre, own: this.centre } : null;
    this.follow();
  }

  /** Go where the main view is. */
  follow(): void {
    if (this.lock === null || this.osd.viewport === null || this.following) return;
    const [x, y] = this.main.centre;
    const [dx, dy] = turned(x - this.lock.main[0], y - this.lock.main[1], -this.degrees);
    this.following = true;
    const { viewport } = this.osd;
    viewport.zoomTo(widthUm(this.detail) / (this.main.resolution * this.osd.container.clientWidth), undefined, true);
    viewport.panTo(this.point(this.lock.own[0] + dx, this.lock.own[1] + dy), true);
    this.following = false;
  }

  /** Take the main view along, when this one was moved by hand. */
  private lead(): void {
    if (this.lock === null || this.following || !this.element.matches(":hover")) return;
    const [x, y] = this.centre;
    const [dx, dy] = turned(x - this.lock.own[0], y - this.lock.own[1], this.degrees);
    this.following = true;
    const resolution = (this.osd.viewport.getBoundsNoRotate(true).width * widthUm(this.detail)) / this.osd.container.clientWidth;
    this.main.jumpTo(this.lock.main[0] + dx, this.lock.main[1] + dy, resolution);
    this.following = false;
  }

  private get centre(): [number, number] {
    const centre = this.osd.viewport.getCenter(true);
    return [centre.x * widthUm(this.detail), centre.y * widthUm(this.detail)];
  }

  private point(x: number, y: number): OpenSeadragon.Point {
    return new OpenSeadragon.Point(x / widthUm(this.detail), y / widthUm(this.detail));
  }
}

function turned(x: number, y: number, degrees: number): [number, number] {
  const [cos, sin] = [Math.cos((degrees * Math.PI) / 180), Math.sin((degrees * Math.PI) / 180)];
  return [cos * x - sin * y, sin * x + cos * y];
}
