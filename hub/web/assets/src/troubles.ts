// What is wrong with a kit, on its card and on its page; says it as hub/catalog/panel.py does.
import { icon, make } from "./dom";
import type { Format } from "./format";

export interface Alarm {
  channel: string;
  id: string;
  severity: string;
  since_ms: number;
  holds: boolean;
}

export interface Wrong {
  severity: string;
  kind: string;
  subject: string;
  code: string;
  detail: string;
  since_ms: number | null;
}

/** A kit at a glance, as the hub sends it. */
export interface KitGlance {
  id: string;
  state: string;
  state_value: number | null;
  data_t_ms: number | null;
  fresh: boolean;
  stale_channels: string[];
  wrong: Wrong[];
}

/** What the page knows of a kit in the reader's language. */
export interface KitLabels {
  alarms: Record<string, string>;
  links: Record<string, { label: string; equipment: boolean }>;
}

export interface Zones {
  zone: string;
  workshop_zone: string;
  mine: string;
}

const ICONS: Record<string, string> = { edge_offline: "offline", connection: "offline", stale: "stale" };

/** A kit that has never sent anything is not stale but empty. */
export function shownState(glance: KitGlance): string {
  return glance.data_t_ms === null && glance.state === "stale" ? "empty" : glance.state;
}

export function alarmLabel(alarm: { channel: string; id: string }, labels: KitLabels): string {
  return labels.alarms[`${alarm.channel}/${alarm.id}`] ?? alarm.id;
}

export class TroubleList {
  private shownBefore = "";

  constructor(
    private readonly list: Element,
    private readonly kit: string,
    private readonly most: number,
    private readonly labels: KitLabels,
    private readonly format: Format,
    private readonly zones: Zones,
    /** The token with which this person may clear a latched alarm. */
    private readonly csrf: string | null = null,
  ) {}

  show(wrong: Wrong[], alarms: Alarm[], at: number): void {
    const latched = new Set(alarms.filter((a) => !a.holds).map((a) => `${a.channel}/${a.id}`));
    // Untouched where nothing has changed: a screen reader or a selection stays where it is.
    const now = JSON.stringify([wrong, [...latched]]);
    if (now === this.shownBefore) return;
    this.shownBefore = now;
    const items = wrong.slice(0, this.most).map((one) => this.item(one, latched, at));
    const { format } = this;
    if (wrong.length > this.most) {
      items.push(make("li", { class: "muted" }, format.fill(format.word("card", "more"), { n: wrong.length - this.most })));
    }
    if (!items.length) items.push(make("li", { class: "muted" }, format.word("card", "nothing_wrong")));
    this.list.replaceChildren(...items);
  }

  private item(one: Wrong, latched: Set<string>, at: number): HTMLLIElement {
    const { format, zones } = this;
    const text = make("span");
    if (one.kind === "alarm") text.append(make("span", { class: "word" }, format.word("severity", one.severity)), " ");
    text.append(this.text(one, latched));
    if (one.since_ms !== null) {
      const time = format.moment(one.since_ms, at, zones.workshop_zone);
      const own = zones.zone === zones.workshop_zone ? "" : ` (${format.moment(one.since_ms, at, zones.zone)} ${zones.mine})`;
      text.append(" ", make("span", { class: "muted nowrap" }, time + own));
    }
    const key = `${one.subject}/${one.code}`;
    if (this.csrf && one.kind === "alarm" && latched.has(key)) text.append(" ", this.clearForm(one, this.csrf));
    const shape = ICONS[one.kind] ?? (one.severity === "warning" ? "warning" : "alarm");
    return make("li", { class: `sev-${one.severity}` }, icon(shape), text);
  }

  private clearForm(one: Wrong, csrf: string): HTMLFormElement {
    const action = `/kits/${encodeURIComponent(this.kit)}/alarms/clear`;
    const form = make("form", { method: "post", action });
    for (const [name, value] of [["csrf", csrf], ["channel", one.subject], ["alarm", one.code]] as const) {
      form.append(make("input", { type: "hidden", name, value }));
    }
    form.append(make("button", { class: "btn compact" }, this.format.word("wrong", "clear")));
    return form;
  }

  private text(one: Wrong, latched: Set<string>): string {
    const { format, labels } = this;
    const word = (code: string): string => format.word("wrong", code);
    const detail = one.detail ? ` (${one.detail})` : "";
    const link = labels.links[one.subject]?.label ?? one.subject;
    switch (one.kind) {
      case "alarm": {
        const label = alarmLabel({ channel: one.subject, id: one.code }, labels);
        return latched.has(`${one.subject}/${one.code}`) ? `${label} (${word("latched")})` : label;
      }
      case "edge_offline":
        return format.fill(word("edge_offline"), { name: one.subject });
      case "connection":
        return `${link}: ${format.word("connection", one.code)}${detail}`;
      case "stale":
        return one.subject === this.kit ? word("stale_kit") : `${link}: ${word("stale")}`;
      default:
        return word(one.kind) + detail;
    }
  }
}
