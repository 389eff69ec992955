// Making elements, and telling people things.

type Child = Node | string | number | null | undefined | false;
type Attributes = Record<string, unknown>;

/** Make an element. Attributes that begin with "on" are listeners; false and null leave one out. */
export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value as EventListener);
    else if (name === "class") made.className = String(value);
    else if (name in made && (name === "value" || name === "checked" || name === "disabled"))
      (made as unknown as Attributes)[name] = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  put(made, ...children);
  return made;
}

export function put(parent: Node, ...children: Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    parent.appendChild(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function refill(parent: Element, ...children: Child[]): void {
  parent.replaceChildren();
  put(parent, ...children);
}

export function button(label: string, onclick: () => void, attributes: Attributes = {}): HTMLButtonElement {
  return el("button", { type: "button", onclick, ...attributes }, label);
}

/** Say something to who listens to the page, without showing it. */
export function say(text: string): void {
  document.getElementById("said")!.textContent = text;
}

export function alertOf(error: unknown): void {
  const text = error instanceof Error ? error.message : String(error);
  const box = el("div", { class: "alert" }, text);
  box.append(button("Dismiss", () => box.remove(), { class: "quiet" }));
  const alerts = document.getElementById("alerts")!;
  while (alerts.children.length > 2) alerts.firstChild!.remove();
  alerts.append(box);
  window.setTimeout(() => box.remove(), 15_000);
}

export function rgb([r, g, b]: readonly number[], alpha = 1): string {
  return `rgb(${r} ${g} ${b} / ${alpha})`;
}

export function swatch(colour: readonly number[]): HTMLElement {
  const made = el("span", { class: "swatch", "aria-hidden": "true" });
  made.style.backgroundColor = rgb(colour);
  return made;
}

const SIGN = new Intl.NumberFormat("en-GB", { maximumSignificantDigits: 3, useGrouping: false });

/** A number as people read it: counts whole, others to three digits. */
export function figure(value: number | null | undefined): string {
  if (value === null || value === undefined) return "NA";
  if (Number.isInteger(value)) return value.toLocaleString("en-GB");
  if (Math.abs(value) >= 1000) return Math.round(value).toLocaleString("en-GB");
  return SIGN.format(value).replace("-", "\u2212");
}
