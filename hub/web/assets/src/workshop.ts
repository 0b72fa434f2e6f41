// The workshop page: a card a kit, renewed every second.
import { all, one, pageData, setState, setText } from "./dom";
import { Format, type Words } from "./format";
import { LiveLink, type Message } from "./live";
import { troubleList, type Zones } from "./troubles";

interface CardAlarm {
  channel: string;
  id: string;
  severity: string;
  since_ms: number | null;
}

interface Card {
  id: string;
  state: string;
  state_value: number | null;
  data_t_ms: number | null;
  alarms: CardAlarm[];
  connections: { id: string; state: string; detail: string }[];
}

interface CardsMessage extends Message {
  kits?: Card[];
}

interface KitMeta {
  states: Record<string, string>;
  alarms: Record<string, string>;
  connections: Record<string, string>;
}

interface Data extends Zones {
  live: string;
  now_ms: number;
  language: string;
  words: Words;
  stale_ms: number;
  kits: Record<string, KitMeta>;
}

const data = pageData<Data>();
const format = new Format(data.language, data.words);
const places = new Map(all("[data-kit]").map((element) => [element.dataset["kit"] ?? "", element]));
const newest = new Map<string, number>();

const link = new LiveLink(data.live, data.now_ms, format, {
  message(message: CardsMessage) {
    for (const card of message.kits ?? []) show(card);
    ages(link.now());
  },
  tick: ages,
});

function show(card: Card): void {
  const place = places.get(card.id);
  const meta = data.kits[card.id];
  if (!place || !meta) return;
  if (card.data_t_ms !== null) newest.set(card.id, card.data_t_ms);
  place.className = `card kit is-${card.state}`;
  setState(one(".state", place), card.state, format.word("state", card.state));
  const value = card.state_value;
  const unknown = (): string => format.fill(format.word("value", "unknown"), { n: value ?? 0 });
  setText(one("[data-field=state]", place), value === null ? format.word("value", "never") : (meta.states[String(value)] ?? unknown()));
  const broken = card.connections
    .filter((c) => c.state !== "running")
    .map((c) => `${meta.connections[c.id] ?? c.id}: ${format.word("connection", c.state)}${c.detail ? ` (${c.detail})` : ""}`);
  const alarms = card.alarms.map((a) => ({ ...a, label: meta.alarms[`${a.channel}/${a.id}`] ?? `${a.channel} ${a.id}` }));
  troubleList(one("[data-field=troubles]", place), broken, alarms, 3, format.word("card", "nothing_wrong"), format, data);
}

function ages(now: number): void {
  for (const [id, place] of places) {
    const last = newest.get(id);
    if (last === undefined) continue;
    setText(one("[data-field=age]", place), format.age((now - last) / 1000));
    place.classList.toggle("is-old", now - last > data.stale_ms);
  }
}
