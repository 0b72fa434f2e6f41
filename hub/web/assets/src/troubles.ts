// The list of what is wrong with a kit, on its card and on its page.
import { icon, make } from "./dom";
import type { Format } from "./format";

export interface Trouble {
  severity: string;
  label: string;
  since_ms: number | null;
}

export interface Zones {
  zone: string;
  workshop_zone: string;
  mine: string;
}

export function troubleList(
  list: HTMLElement,
  connections: string[],
  alarms: Trouble[],
  shown: number,
  nothing: string,
  format: Format,
  zones: Zones,
): void {
  const signature = JSON.stringify([connections, alarms]);
  if (list.dataset["signature"] === signature) return;
  list.dataset["signature"] = signature;
  const items = connections.map((text) => make("li", {}, icon("offline"), make("span", {}, text)));
  for (const alarm of alarms.slice(0, shown)) {
    const text = make("span", {}, make("span", { class: "word" }, format.word("severity", alarm.severity)), ` ${alarm.label}`);
    if (alarm.since_ms !== null) {
      const own = zones.zone === zones.workshop_zone ? "" : ` (${format.time(alarm.since_ms, zones.zone)} ${zones.mine})`;
      text.append(" ", make("span", { class: "muted nowrap" }, `${format.time(alarm.since_ms, zones.workshop_zone)}${own}`));
    }
    const shape = icon(alarm.severity === "warning" ? "warning" : "alarm");
    items.push(make("li", { class: `sev-${alarm.severity}` }, shape, text));
  }
  if (alarms.length > shown) {
    items.push(make("li", { class: "muted" }, format.fill(format.word("card", "more"), { n: alarms.length - shown })));
  }
  if (!items.length) items.push(make("li", { class: "muted" }, nothing));
  list.replaceChildren(...items);
}
