// The work list: which slide next.

import { get, type Row, type Session, slidePath } from "./api";
import { el, figure, refill } from "./dom";

export async function showList(app: HTMLElement, session: Session): Promise<void> {
  document.title = "Work list - histo review";
  refill(app, el("main", { class: "list" }, el("p", { class: "muted" }, "Reading the results ...")));
  const { slides } = await get<{ slides: Row[] }>("/api/slides");
  const done = slides.filter((row) => row.state === "signed").length;
  const body = el("tbody");
  const hideSigned = el("input", { type: "checkbox", id: "hide-signed" });
  const fill = () => refill(body, ...slides.filter((row) => !(hideSigned.checked && row.state === "signed")).map((row) => rowOf(row, session)));
  hideSigned.addEventListener("change", fill);
  fill();
  const headings: [string, string][] = [
    ["", "picture"],
    ["Slide", ""],
    ...(session.blinded ? [] : ([["Site", ""], ["Patient", ""]] as [string, string][])),
    ["Review", ""],
    ["CD8+ cells", "number"],
    ["CD8+ per mm\u00b2", "number"],
    ["Core per mm\u00b2", "number wide"],
    ["log2 core : outer", "number wide"],
    ["Phenotype", ""],
    ["Uncertain", "number"],
    ["To know", ""],
  ];
  refill(
    app,
    el(
      "header",
      { class: "bar" },
      el("h1", {}, "Work list"),
      el("span", { class: "muted" }, `${slides.length} slides, ${done} signed`),
      session.blinded && el("strong", { class: "chip blinded" }, "Blinded: site, patient and names hidden"),
      el("span", { class: "grow" }),
      el("label", { for: "hide-signed", class: "inline" }, hideSigned, "Hide signed"),
      el("span", { class: "muted" }, `Reader: ${session.reader}`),
    ),
    el(
      "main",
      { class: "list" },
      el(
        "table",
        { class: "slides" },
        el("caption", { class: "unseen" }, session.blinded ? "Slides in random order" : "Slides, those first that most need a look"),
        el("thead", {}, el("tr", {}, ...headings.map(([text, kind]) => el("th", { scope: "col", class: kind }, text || el("span", { class: "unseen" }, "Picture"))))),
        body,
      ),
      el("p", { class: "muted small" }, session.blinded ? "In random order, the same each time you come back." : "Sorted by what most needs a look: flags, what is not assessable, many uncertain cells; signed slides last. ", "Uncertain: CD8+ cells called with a probability below 0.7."),
      el("p", { class: "muted small" }, `histo ${session.version}, a research tool, not a medical device.`),
    ),
  );
}

function rowOf(row: Row, session: Session): HTMLElement {
  const open = row.error === null;
  const name = open ? el("a", { href: `#/slide/${encodeURIComponent(row.key)}` }, row.label) : el("span", {}, row.label);
  const picture = open
    ? el("img", { src: `${slidePath(row.key)}/thumbnail.jpg`, alt: "", loading: "lazy", width: 120, height: 78 })
    : el("span", { class: "no-picture" });
  const n = row.numbers;
  const notes = el("td", { class: "notes" });
  if (row.error !== null) notes.append(el("span", { class: "chip bad" }, "failed"), " ", row.error);
  for (const flag of row.flags) notes.append(el("details", {}, el("summary", { class: "chip warn" }, flag.code.replaceAll("_", " ")), flag.message));
  if (row.not_assessable !== null) notes.append(el("details", {}, el("summary", { class: "chip warn" }, "zones not assessable"), row.not_assessable));
  for (const why of row.why) if (why !== "flags" && why !== "not assessable") notes.append(el("span", { class: "chip warn" }, why));
  const made = el(
    "tr",
    { class: open ? "open" : "" },
    el("td", { class: "picture" }, picture),
    el("th", { scope: "row" }, name),
    ...(session.blinded ? [] : [el("td", {}, row.site ?? ""), el("td", {}, row.patient ?? "")]),
    el("td", {}, stateOf(row)),
    el("td", { class: "number" }, n ? figure(n.n_cd8) : ""),
    el("td", { class: "number" }, n ? figure(n.cd8_density_per_mm2) : ""),
    el("td", { class: "number wide" }, n ? figure(n.core_per_mm2) : ""),
    el("td", { class: "number wide" }, n ? figure(n.log2_core_outer) : ""),
    el("td", {}, n ? (n.phenotype ?? "NA") : ""),
    el("td", { class: "number" }, row.uncertain_share === null ? "" : `${figure(100 * row.uncertain_share)} %`),
    notes,
  );
  if (open)
    made.addEventListener("click", (event) => {
      if (!(event.target as Element).closest("a, details")) location.hash = `#/slide/${encodeURIComponent(row.key)}`;
    });
  return made;
}

function stateOf(row: Row): HTMLElement {
  if (row.error !== null) return el("span", {}, "");
  if (row.signed !== null)
    return el("span", {}, el("span", { class: "chip good" }, "signed"), el("span", { class: "under" }, `${row.signed.verdict}, ${row.signed.name}, ${row.signed.at_utc.slice(0, 10)}`));
  const corrections = row.n_corrections === 1 ? "1 correction" : `${row.n_corrections} corrections`;
  return el("span", {}, el("span", { class: row.state === "in review" ? "chip busy" : "chip" }, row.state), row.state === "in review" && el("span", { class: "under" }, corrections));
}
