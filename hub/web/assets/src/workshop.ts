// The workshop page: a card a kit, renewed every second.
import { all, one, pageData, setState, setText } from "./dom";
import { Format, type Words } from "./format";
import { LiveLink, type Message } from "./live";
import { type Alarm, type KitGlance, type KitLabels, shownState, TroubleList, type Zones } from "./troubles";

interface CardsMessage extends Message {
  kits?: (KitGlance & { alarms: Alarm[] })[];
}

interface Data extends Zones {
  live: string;
  now_ms: number;
  language: string;
  words: Words;
  kits: Record<string, KitLabels & { states: Record<string, string> | null }>;
}

const MOST_TROUBLES = 3;

const data = pageData<Data>();
const format = new Format(data.language, data.words);

class Card {
  private newest: number | null = null;
  private readonly troubles: TroubleList;

  constructor(
    private readonly element: HTMLElement,
    kit: string,
    private readonly meta: Data["kits"][string],
  ) {
    this.troubles = new TroubleList(one("[data-field=troubles]", element), kit, MOST_TROUBLES, meta, format, data);
  }

  show(glance: KitGlance & { alarms: Alarm[] }): void {
    const state = shownState(glance);
    this.newest = glance.data_t_ms;
    this.element.className = `card kit is-${state}`;
    this.element.classList.toggle("is-old", !glance.fresh);
    setState(one(".state", this.element), state, format.word("state", state));
    setText(one("[data-field=state]", this.element), this.stateText(glance.state_value));
    this.troubles.show(glance.wrong, glance.alarms, link.now());
  }

  grow(now: number): void {
    if (this.newest !== null) setText(one("[data-field=age]", this.element), format.age((now - this.newest) / 1000));
  }

  private stateText(value: number | null): string {
    if (value === null) return "\u2013";
    return this.meta.states?.[String(value)] ?? format.fill(format.word("value", "unknown"), { n: value });
  }
}

const cards = new Map<string, Card>();
for (const element of all("[data-kit]")) {
  const kit = element.dataset["kit"] ?? "";
  const meta = data.kits[kit];
  if (meta) cards.set(kit, new Card(element, kit, meta));
}

const link = new LiveLink(data.live, data.now_ms, format, {
  message(message: CardsMessage) {
    for (const glance of message.kits ?? []) cards.get(glance.id)?.show(glance);
    grow(link.now());
  },
  tick: grow,
});

function grow(now: number): void {
  for (const card of cards.values()) card.grow(now);
}
