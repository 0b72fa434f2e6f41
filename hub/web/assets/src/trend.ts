// Trends of the kit page: asks the hub for an overview (least and greatest value a bucket) of each chosen channel and
// hands it to one plot a channel; time range, movement and which channels are shown are chosen here.
import { all, one, setText } from "./dom";
import type { Format } from "./format";
import { type ChannelMeta, type Overview, Plot, type PlotHost } from "./plot";
import { theme } from "./theme";
import type { Alarm } from "./troubles";

export interface TrendOptions {
  kit: string;
  zone: string;
  channels: Record<string, ChannelMeta>;
  chosen: string[];
}

const MOST_PLOTS = 8;
const LEAST_RANGE_MS = 10_000;
const MOST_RANGE_MS = 7 * 86_400_000;

export class TrendPanel implements PlotHost {
  rangeMs = 300_000;
  /** null: the right edge is now and moves on. */
  private end: number | null = null;
  private readonly plots = new Map<string, Plot>();
  private readonly root = one("#trends");
  private readonly holder = one("#plots");
  private readonly note = one("#trend-note");
  private asking = false;
  private again = false;
  private asked = -Infinity;
  private alarms: Alarm[] = [];

  constructor(
    readonly options: TrendOptions,
    readonly format: Format,
    private readonly now: () => number,
    private readonly silent: () => boolean,
    private readonly fresh: (id: string) => number | null,
  ) {
    for (const button of all<HTMLButtonElement>("[data-range]", this.root)) {
      button.addEventListener("click", () => this.look(this.end, Number(button.dataset["range"]) * 1000));
    }
    one("[data-act=earlier]", this.root).addEventListener("click", () => this.move(-0.5));
    one("[data-act=later]", this.root).addEventListener("click", () => this.move(0.5));
    one("[data-act=now]", this.root).addEventListener("click", () => this.look(null, this.rangeMs));
    const add = one<HTMLSelectElement>("#trend-add");
    add.addEventListener("change", () => {
      if (add.value) this.add(add.value);
      add.value = "";
    });
    new ResizeObserver(() => this.resize()).observe(this.holder);
    theme.onChange(() => this.redraw());
    for (const id of options.chosen) this.add(id);
  }

  text(code: string): string {
    return this.format.word("trend", code);
  }

  current(id: string): number | null {
    return this.silent() ? null : this.fresh(id);
  }

  setAlarms(alarms: Alarm[]): void {
    this.alarms = alarms;
  }

  /** Something of the past has come, or is known to be lost: drawn where it is in sight. */
  late(from: number, to: number): void {
    const end = this.end ?? this.now();
    if (to >= end - this.rangeMs && from <= end && !document.hidden) this.ask();
  }

  /** Once a second: ask again when the plot would have moved by a pixel or two. */
  tick(): void {
    const every = Math.min(Math.max(this.rangeMs / 150, 2000), 60_000);
    if (this.end === null && !document.hidden && !this.silent() && performance.now() - this.asked >= every) this.ask();
  }

  look(end: number | null, rangeMs: number): void {
    this.rangeMs = Math.min(Math.max(rangeMs, LEAST_RANGE_MS), MOST_RANGE_MS);
    this.end = end !== null && end >= this.now() - 500 ? null : end;
    for (const button of all("[data-range]", this.root)) {
      button.setAttribute("aria-pressed", String(Number(button.dataset["range"]) * 1000 === this.rangeMs));
    }
    one("[data-act=now]", this.root).setAttribute("aria-pressed", String(this.end === null));
    this.ask();
  }

  move(share: number): void {
    this.look((this.end ?? this.now()) + share * this.rangeMs, this.rangeMs);
  }

  key(event: KeyboardEvent): void {
    const middle = (this.end ?? this.now()) - this.rangeMs / 2;
    const zoom = (factor: number): void =>
      this.look(this.end === null ? null : middle + (this.rangeMs * factor) / 2, this.rangeMs * factor);
    const actions: Record<string, () => void> = {
      ArrowLeft: () => this.move(-0.25),
      ArrowRight: () => this.move(0.25),
      PageUp: () => this.move(-1),
      PageDown: () => this.move(1),
      End: () => this.look(null, this.rangeMs),
      "+": () => zoom(0.5),
      "=": () => zoom(0.5),
      "-": () => zoom(2),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  add(id: string): void {
    const meta = this.options.channels[id];
    if (!meta || this.plots.has(id)) return;
    if (this.plots.size >= MOST_PLOTS) {
      const oldest = this.plots.keys().next().value;
      if (oldest !== undefined) this.remove(oldest);
    }
    const plot = new Plot(this, id, meta);
    this.plots.set(id, plot);
    this.holder.append(plot.element);
    this.ask();
  }

  remove(id: string): void {
    this.plots.get(id)?.destroy();
    this.plots.delete(id);
    one("#trend-add").focus();
  }

  private resize(): void {
    for (const plot of this.plots.values()) plot.resize();
  }

  private redraw(): void {
    for (const plot of this.plots.values()) plot.redraw();
  }

  private ask(): void {
    // One question at a time: over a poor link they would pile up, and answers could overtake each other.
    this.again = true;
    if (this.asking) return;
    this.asking = true;
    // Not at once: several channels that are added together make one question.
    queueMicrotask(() => void this.askWhileWanted());
  }

  private async askWhileWanted(): Promise<void> {
    try {
      while (this.again) {
        this.again = false;
        this.asked = performance.now();
        await this.fetch();
      }
    } finally {
      this.asking = false;
    }
  }

  private async fetch(): Promise<void> {
    if (!this.plots.size) return;
    const endsNow = this.end === null;
    const to = Math.ceil(this.end ?? this.now());
    const from = Math.floor(to - this.rangeMs);
    const query = new URLSearchParams({
      channels: [...this.plots.keys()].join(","),
      from_ms: String(from),
      to_ms: String(to),
      buckets: String(Math.min(Math.max(Math.round(this.holder.clientWidth / 2), 100), 600)),
    });
    let status: string;
    try {
      const answer = await fetch(`/api/v1/kits/${encodeURIComponent(this.options.kit)}/overview?${query}`, {
        headers: { Accept: "application/json" },
      });
      if (answer.ok) {
        this.show((await answer.json()) as Overview, from, to, endsNow);
        setText(this.note, "");
        return;
      }
      status = String(answer.status);
    } catch (error) {
      status = error instanceof Error ? error.message : String(error);
    }
    setText(this.note, this.format.fill(this.text("failed"), { status }));
  }

  private show(overview: Overview, from: number, to: number, endsNow: boolean): void {
    for (const plot of this.plots.values()) {
      if (!overview.channels[plot.id]) continue;
      const marks = this.alarms.filter((a) => a.channel === plot.id).map((a) => a.since_ms);
      plot.show(overview, from, to, marks, endsNow);
    }
  }
}
