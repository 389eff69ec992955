import "./style.css";
import { getSession } from "./api";
import { alertOf, el, refill } from "./dom";
import { showList } from "./list";
import { SlideView } from "./view";

const app = document.getElementById("app")!;
let view: SlideView | null = null;

async function route(): Promise<void> {
  view?.close();
  view = null;
  try {
    const session = await getSession();
    const match = /^#\/slide\/(.+)$/.exec(location.hash);
    if (match) {
      const key = decodeURIComponent(match[1]);
      view = await SlideView.open(app, session, key);
    } else {
      await showList(app, session);
    }
  } catch (error) {
    refill(app, el("main", { class: "failed" }, el("h1", {}, "This cannot be shown"), el("p", {}, String((error as Error).message)), el("p", {}, el("a", { href: "#/" }, "Work list"))));
    alertOf(error);
  }
}

window.addEventListener("hashchange", () => void route());
void route();
