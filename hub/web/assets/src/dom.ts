// Finding and changing elements; an element that a page must have and has not is an error of the page.

export function one<T extends Element = HTMLElement>(selector: string, within: ParentNode = document): T {
  const found = within.querySelector<T>(selector);
  if (!found) throw new Error(`the page has no ${selector}`);
  return found;
}

export function all<T extends Element = HTMLElement>(selector: string, within: ParentNode = document): T[] {
  return [...within.querySelectorAll<T>(selector)];
}

/** Sets a text only where it differs: untouched text stays selectable and costs no layout. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function icon(name: string): SVGSVGElement {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** Changes a state badge drawn by the server: icon, word and colour together. */
export function setState(badge: HTMLElement, code: string, word: string): void {
  if (badge.dataset["state"] === code) return;
  badge.dataset["state"] = code;
  badge.className = `state is-${code}`;
  one("use", badge).setAttribute("href", `#i-${code}`);
  setText(one("span", badge), word);
}

export function pageData<T>(): T {
  return JSON.parse(one("#page-data").textContent ?? "") as T;
}
