// OpenSeadragon as this page uses it: for the slide, and for another one beside it.

import OpenSeadragon from "openseadragon";
import { type Detail, slidePath } from "./api";
import { el } from "./dom";

export function openViewer(element: HTMLElement, source: object, options: object = {}): OpenSeadragon.Viewer {
  // OpenSeadragon would add a style of its own, which the content security policy refuses. An element of that
  // name, which is no style to the browser, makes it think that it has.
  if (document.querySelector("style[data-openseadragon-mobile-css]") === null) {
    const decoy = document.createElementNS("histo", "style");
    decoy.setAttribute("data-openseadragon-mobile-css", "true");
    document.head.append(decoy);
  }
  const viewer = OpenSeadragon({
    element,
    drawer: "canvas",
    showNavigationControl: false,
    animationTime: 0.4,
    springStiffness: 9,
    visibilityRatio: 0.4,
    minZoomImageRatio: 0.6,
    maxZoomPixelRatio: 12,
    zoomPerScroll: 1.35,
    imageLoaderLimit: 6,
    maxImageCacheCount: 300,
    preserveImageSizeOnResize: true,
    immediateRender: false,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false, flickEnabled: false },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false, pinchRotate: false },
    gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
    tileSources: source,
    ...options,
  } as OpenSeadragon.Options);
  // Keys are the page's own: see SlideView.
  const tracker = (viewer as unknown as { innerTracker: Record<string, unknown> }).innerTracker;
  tracker.keyHandler = null;
  tracker.keyDownHandler = null;
  return viewer;
}

/** The tiles of a slide; `channels` is asked for every tile anew. */
export function tilesOf(detail: Detail, channels: () => string): object {
  return {
    width: detail.size_px[0],
    height: detail.size_px[1],
    tileSize: detail.tile_px,
    tileOverlap: 0,
    minLevel: Math.min(8, detail.max_level),
    maxLevel: detail.max_level,
    getTileUrl: (level: number, x: number, y: number) => {
      const shown = channels();
      return `${slidePath(detail.key)}/tiles/${level}/${x}_${y}.jpg` + (shown ? `?channels=${encodeURIComponent(shown)}` : "");
    },
  };
}

export function widthUm(detail: Detail): number {
  return detail.size_px[0] * detail.mpp;
}

/** A box for a viewer, hidden from who listens to the page: what it shows is told elsewhere. */
export function holder(): HTMLElement {
  return el("div", { class: "osd" });
}
