// The kit page: states, alarms and values as they come, the strip charts of its streams, and the trends.
import { all, one, pageData, setState, setText } from "./dom";
import { Format, type Words } from "./format";
import { LiveLink, type Message } from "./live";
import type { ChannelMeta } from "./plot";
import { StripChart, type StreamData } from "./strip";
import { TrendPanel } from "./trend";
import { type Alarm, alarmLabel, type KitGlance, type KitLabels, shownState, TroubleList, type Zones } from "./troubles";

type Value = [channel: string, t_ms: number, value: number | null, text: string | null, quality: number];

interface KitMessage extends Message {
  values?: Value[];
  alarms?: Alarm[];
  kit?: KitGlance;
  from_ms?: number;
  to_ms?: number;
}

interface Data extends Zones, KitLabels {
  kit: string;
  csrf: string | null;
  live: string;
  now_ms: number;
  language: string;
  words: Words;
  channels: Record<string, ChannelMeta>;
  streams: StreamData[];
  chosen: string[];
  values: Value[];
}

const MOST_TROUBLES = 50;
const SEVERITIES = ["warning", "high", "critical"];

/** One channel's place on the page: a table row, or an entry among the states. */
class Cell {
  t = -Infinity;
  private readonly value: Element;
  private readonly fill: Element | null;
  private readonly age: Element | null;
  /** Unit and bar: they make sense beside a number only. */
  private readonly beside: HTMLElement[];

  constructor(
    private readonly element: HTMLElement,
    readonly meta: ChannelMeta,
    private readonly format: Format,
  ) {
    this.value = one(".value", element);
    this.fill = element.querySelector(".fill");
    this.age = element.querySelector(".age");
    this.beside = all(".beside", element);
  }

  show([, t, value, text, quality]: Value): void {
    if (t < this.t) return;
    if (!this.known) this.element.classList.remove("is-never");
    this.t = t;
    setText(this.value, this.text(value, text, quality));
    this.wide(value === null || this.meta.kind === "text");
    const { min, max } = this.meta;
    if (!this.fill || value === null || min === null || max === null) return;
    const zero = Math.min(Math.max(0, min), max);
    const place = (v: number): number => (100 * (Math.min(Math.max(v, min), max) - min)) / (max - min);
    const [from, to] = [place(zero), place(value)].sort((a, b) => a - b) as [number, number];
    this.fill.setAttribute("x", from.toFixed(1));
    this.fill.setAttribute("width", (to - from).toFixed(1));
  }

  /** Whether the channel has ever had a value. */
  get known(): boolean {
    return Number.isFinite(this.t);
  }

  old(old: boolean): void {
    this.element.classList.toggle("is-old", old && this.known);
  }

  grow(now: number): void {
    const { period_ms: period } = this.meta;
    if (!this.age || !this.known) return;
    const age = now - this.t;
    const shown = period !== null && age > Math.max(2 * period, 1000);
    setText(this.age, shown ? this.format.age(age / 1000) : "");
  }

  severity(code: string | null): void {
    for (const name of [...this.element.classList]) if (name.startsWith("sev-")) this.element.classList.remove(name);
    if (code) this.element.classList.add(`sev-${code}`);
  }

  private wide(wide: boolean): void {
    for (const element of this.beside) element.hidden = wide;
    const cell = this.element instanceof HTMLTableRowElement ? this.value.parentElement : null;
    if (cell instanceof HTMLTableCellElement) cell.colSpan = wide ? 3 : 1;
  }

  private text(value: number | null, text: string | null, quality: number): string {
    if (this.meta.kind === "text") return text ?? this.format.word("value", "none");
    if (value === null) {
      const none = this.format.word("value", "none");
      return quality ? `${none} (0x${quality.toString(16).toUpperCase().padStart(8, "0")})` : none;
    }
    if (this.meta.kind === "bool") return this.format.word("bool", value ? "1" : "0");
    if (this.meta.states) {
      return this.meta.states[String(value)] ?? this.format.fill(this.format.word("value", "unknown"), { n: value });
    }
    return this.format.number(value, this.meta.decimals);
  }
}

const data = pageData<Data>();
const format = new Format(data.language, data.words);
const cells = new Map<string, Cell>();
for (const element of all("[data-channel]")) {
  const id = element.dataset["channel"] ?? "";
  const meta = data.channels[id];
  if (meta) cells.set(id, new Cell(element, meta, format));
}
const troubles = new TroubleList(one("#alarms"), data.kit, MOST_TROUBLES, data, format, data, data.csrf);
const title = one("#title");
const badge = one("#kit-state .state");
const ageText = one("#kit-age");
const latest = new Map<string, number | null>();
let glance: KitGlance | null = null;
let alarms: Alarm[] | null = null;
/** Newest sample of the equipment. */
let newest = -Infinity;

const link = new LiveLink(data.live, data.now_ms, format, {
  message(message: KitMessage) {
    for (const value of message.values ?? []) take(value);
    if (message.alarms) setAlarms(message.alarms);
    if (message.kit) glance = message.kit;
    if (message.kit || message.alarms) showGlance();
    if (message.kind === "late") trends.late(message.from_ms ?? 0, message.to_ms ?? 0);
    if (message.kind === "snapshot") grow(link.now());
  },
  frame(frame) {
    const index = new DataView(frame).getUint8(7);
    const stream = data.streams.find((s) => s.index === index);
    if (!stream) return;
    strips.get(index)?.frame(frame);
    newestOf(frame, stream);
  },
  tick(now) {
    grow(now);
    for (const strip of strips.values()) strip.tick();
    trends.tick();
  },
});

const strips = new Map<number, StripChart>();
for (const card of all("[data-stream]")) {
  const stream = data.streams.find((s) => s.index === Number(card.dataset["stream"]));
  if (stream) strips.set(stream.index, new StripChart(card, stream, format, () => link.now()));
}
const trends = new TrendPanel(data, format, () => link.now(), () => link.isSilent, fresh);
for (const value of data.values) take(value);

/** A channel's value now; null where it is old, bad or text. */
function fresh(id: string): number | null {
  return glance && !glance.stale_channels.includes(id) ? (latest.get(id) ?? null) : null;
}

function take(value: Value): void {
  const [id, t, number] = value;
  latest.set(id, number);
  cells.get(id)?.show(value);
  const connection = data.channels[id]?.connection;
  if (connection && data.links[connection]?.equipment) newest = Math.max(newest, t);
}

/** The last sample of a frame as values: a slow stream is shown like any other channels. */
function newestOf(frame: ArrayBuffer, stream: StreamData): void {
  const view = new DataView(frame);
  const n = view.getUint16(4, true);
  if (!n) return;
  const t = view.getFloat64(8, true) + (1000 * (n - 1)) / stream.rate;
  for (const [c, channel] of stream.channels.entries()) {
    const value = view.getFloat32(16 + 4 * (c * n + n - 1), true);
    take([channel.id, t, Number.isNaN(value) ? null : value, null, 0]);
  }
}

function grow(now: number): void {
  for (const cell of cells.values()) cell.grow(now);
  setText(ageText, Number.isFinite(newest) ? format.age((now - newest) / 1000) : format.word("card", "never"));
}

function setAlarms(found: Alarm[]): void {
  const key = (a: Alarm): string => `${a.channel}/${a.id}`;
  if (alarms) {
    const before = new Set(alarms.map(key));
    const raised = found.find((a) => !before.has(key(a)) && a.severity !== "warning");
    if (raised) link.announce(format.fill(format.word("alarms", "raised"), { name: alarmLabel(raised, data) }));
    else if (alarms.length && !found.length) link.announce(format.word("alarms", "cleared"));
  }
  alarms = found;
  trends.setAlarms(found);
}

function showGlance(): void {
  const worst = new Map<string, string>();
  for (const { channel, severity } of alarms ?? []) {
    const rank = SEVERITIES.indexOf(worst.get(channel) ?? "");
    if (SEVERITIES.indexOf(severity) > rank) worst.set(channel, severity);
  }
  const stale = new Set(glance?.stale_channels);
  for (const [id, cell] of cells) {
    cell.severity(worst.get(id) ?? null);
    cell.old(stale.has(id));
  }
  if (!glance) return;
  const state = shownState(glance);
  setState(badge, state, format.word("state", state));
  title.classList.toggle("is-old", !glance.fresh);
  troubles.show(glance.wrong, alarms ?? [], link.now());
}
