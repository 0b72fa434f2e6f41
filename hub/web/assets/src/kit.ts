// The kit page: states, alarms and values as they come, the strip charts of its streams, and the trends.
import { all, one, pageData, setState, setText } from "./dom";
import { Format, type Words } from "./format";
import { LiveLink, type Message } from "./live";
import { StripChart, type StreamData } from "./strip";
import { type ChannelMeta, TrendPanel } from "./trend";
import { troubleList, type Zones } from "./troubles";

type Value = [channel: string, t_ms: number, value: number | null, text: string | null, quality: number];

interface Alarm {
  channel: string;
  id: string;
  severity: string;
  since_ms: number | null;
}

interface KitState {
  state: string;
  data_t_ms: number | null;
  connections: { id: string; state: string; detail: string }[];
}

interface KitMessage extends Message {
  values?: Value[];
  alarms?: Alarm[];
  kit?: KitState;
}

interface Data extends Zones {
  kit: string;
  live: string;
  now_ms: number;
  language: string;
  words: Words;
  stale_ms: number;
  channels: Record<string, ChannelMeta>;
  alarms: Record<string, string>;
  connections: Record<string, string>;
  streams: StreamData[];
  chosen: string[];
  values: Value[];
  state: KitState;
}

/** One channel's place on the page: a table row, or an entry among the states. */
class Cell {
  t = -Infinity;
  private readonly value: Element;
  private readonly fill: Element | null;
  private readonly age: Element | null;

  constructor(
    private readonly element: HTMLElement,
    readonly meta: ChannelMeta,
    private readonly format: Format,
  ) {
    this.value = one(".value", element);
    this.fill = element.querySelector(".fill");
    this.age = element.querySelector(".age");
  }

  show([, t, value, text, quality]: Value): void {
    if (t < this.t) return;
    this.t = t;
    setText(this.value, this.text(value, text, quality));
    if (!this.fill) return;
    const { min, max } = this.meta;
    if (value === null || min === null || max === null) {
      this.fill.setAttribute("width", "0");
      return;
    }
    const zero = Math.min(Math.max(0, min), max);
    const place = (v: number): number => (100 * (Math.min(Math.max(v, min), max) - min)) / (max - min);
    const [from, to] = [place(zero), place(value)].sort((a, b) => a - b) as [number, number];
    this.fill.setAttribute("x", from.toFixed(1));
    this.fill.setAttribute("width", (to - from).toFixed(1));
  }

  grow(now: number, old: boolean): void {
    this.element.classList.toggle("is-old", old);
    const { period_ms: period } = this.meta;
    if (!this.age || !Number.isFinite(this.t)) return;
    const age = now - this.t;
    const shown = period !== null && age > Math.max(2 * period, 1000);
    setText(this.age, shown ? this.format.age(age / 1000) : "");
  }

  severity(code: string | null): void {
    for (const name of [...this.element.classList]) if (name.startsWith("sev-")) this.element.classList.remove(name);
    if (code) this.element.classList.add(`sev-${code}`);
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
const list = one("#alarms");
const badge = one("#kit-state .state");
const ageText = one("#kit-age");
let state = data.state;
let alarms: Alarm[] | null = null;
/** Newest value of each connection: a link that has gone silent ages all its channels. */
const newest = new Map<string, number>();

const link = new LiveLink(data.live, data.now_ms, format, {
  message(message: KitMessage) {
    for (const value of message.values ?? []) take(value);
    if (message.alarms) showAlarms(message.alarms);
    if (message.kit) state = message.kit;
    if (message.kind === "snapshot") refresh(link.now());
    if (message.kit) showState();
  },
  frame(frame) {
    const index = new DataView(frame).getUint8(7);
    const stream = data.streams.find((s) => s.index === index);
    if (!stream) return;
    strips.get(index)?.frame(frame);
    newestOf(frame, stream);
  },
  tick(now) {
    refresh(now);
    for (const strip of strips.values()) strip.tick();
    trends.tick();
  },
});

const strips = new Map<number, StripChart>();
for (const card of all("[data-stream]")) {
  const stream = data.streams.find((s) => s.index === Number(card.dataset["stream"]));
  if (stream) strips.set(stream.index, new StripChart(card, stream, format, () => link.now()));
}
const trends = new TrendPanel(data, format, () => link.now(), () => link.isSilent);
for (const value of data.values) take(value);

function take(value: Value): void {
  const [id, t] = value;
  cells.get(id)?.show(value);
  const connection = data.channels[id]?.connection;
  if (connection) heard(connection, t);
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

function heard(connection: string, t: number): void {
  if (t > (newest.get(connection) ?? -Infinity)) newest.set(connection, t);
}

function refresh(now: number): void {
  for (const cell of cells.values()) {
    const last = newest.get(cell.meta.connection) ?? -Infinity;
    cell.grow(now, now - last > data.stale_ms);
  }
  const last = Math.max(state.data_t_ms ?? -Infinity, ...newest.values());
  setText(ageText, Number.isFinite(last) ? format.age((now - last) / 1000) : format.word("card", "never"));
}

function showState(): void {
  setState(badge, state.state, format.word("state", state.state));
  showTroubles();
}

function showAlarms(found: Alarm[]): void {
  const key = (a: Alarm): string => `${a.channel}/${a.id}`;
  if (alarms) {
    const before = new Set(alarms.map(key));
    const raised = found.find((a) => !before.has(key(a)) && a.severity !== "warning");
    if (raised) link.announce(format.fill(format.word("alarms", "raised"), { name: label(raised) }));
    else if (alarms.length && !found.length) link.announce(format.word("alarms", "cleared"));
  }
  alarms = found;
  const worst = new Map<string, string>();
  for (const alarm of found) {
    const rank = ["warning", "high", "critical"];
    const before = worst.get(alarm.channel);
    if (!before || rank.indexOf(alarm.severity) > rank.indexOf(before)) worst.set(alarm.channel, alarm.severity);
  }
  for (const [id, cell] of cells) cell.severity(worst.get(id) ?? null);
  trends.setAlarms(found.map((a) => ({ ...a, label: label(a) })));
  showTroubles();
}

function label(alarm: Alarm): string {
  return data.alarms[`${alarm.channel}/${alarm.id}`] ?? `${alarm.channel} ${alarm.id}`;
}

function showTroubles(): void {
  const broken = state.connections
    .filter((c) => c.state !== "running")
    .map((c) => {
      const word = format.word("connection", c.state);
      return `${data.connections[c.id] ?? c.id}: ${word}${c.detail ? ` (${c.detail})` : ""}`;
    });
  const named = (alarms ?? []).map((a) => ({ ...a, label: label(a) }));
  troubleList(list, broken, named, 50, format.word("alarms", "none"), format, data);
}
