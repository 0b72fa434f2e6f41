// One trend: the least and greatest value of a channel over time, with gaps as gaps, limits as thin lines and active
// alarms as marks on the time axis; the same as a table, a picture and a CSV file.
import uPlot from "uplot";
import { make, setText } from "./dom";
import type { Format } from "./format";
import { type Lost, LostStretches } from "./lost";
import { seriesColour, theme } from "./theme";

export interface ChannelMeta {
  label: string;
  unit: string;
  decimals: number;
  kind: string;
  period_ms: number | null;
  min: number | null;
  max: number | null;
  states: Record<string, string> | null;
  limits: [string, number][];
  series: number;
  connection: string;
  stream: string;
}

/** What the hub answers: bucket starts in ms, and for each channel the least and greatest value of each bucket. */
export interface Overview {
  t: number[];
  width_ms: number;
  channels: Record<string, { min: (number | null)[]; max: (number | null)[] }>;
  gaps: Lost[];
}

/** What a plot needs of the panel that it stands in. */
export interface PlotHost {
  readonly options: { kit: string; zone: string };
  readonly format: Format;
  readonly rangeMs: number;
  text(code: string): string;
  remove(id: string): void;
  look(end: number | null, rangeMs: number): void;
  /** The channel's value now, null where it is not fresh. */
  current(id: string): number | null;
  key(event: KeyboardEvent): void;
}

interface Bucket {
  from: number;
  to: number;
}

const PLOT_HEIGHT = 168;
/** The stream of what is sent on change. */
const EVENTS = "events";
const TABLE_ROWS = 12;

export class Plot {
  readonly element: HTMLElement;
  private readonly area: HTMLElement;
  private readonly readout: HTMLElement;
  private readonly body: HTMLTableSectionElement;
  private readonly csv: HTMLAnchorElement;
  private chart: uPlot | null = null;
  private gaps: Bucket[] = [];
  private readonly lost: LostStretches;
  private marks: number[] = [];
  private overview: Overview | null = null;

  constructor(
    private readonly panel: PlotHost,
    readonly id: string,
    private readonly meta: ChannelMeta,
  ) {
    const format = panel.format;
    this.lost = new LostStretches(format, panel.options.zone, meta.stream);
    const name = meta.unit ? `${meta.label}, ${meta.unit}` : meta.label;
    this.readout = make("span", { class: "readout number" });
    this.csv = make("a", { download: `${panel.options.kit}-${id}.csv` }, "CSV");
    const picture = make("button", { type: "button", class: "plain" }, panel.text("picture"));
    picture.addEventListener("click", () => this.savePicture());
    const remove = make("button", { type: "button", class: "plain" }, panel.text("remove"));
    remove.setAttribute("aria-label", format.fill(format.word("trend", "remove_named"), { name: meta.label }));
    remove.addEventListener("click", () => panel.remove(id));
    const head = make(
      "div",
      { class: `head series-${meta.series}` },
      make("h3", {}, make("span", { class: "swatch" }), name),
      this.readout,
      make("span", { class: "actions" }, this.csv, picture, remove),
    );
    this.area = make("div", { class: "area", tabindex: "0", role: "img" });
    this.area.setAttribute("aria-label", format.fill(format.word("trend", "describe"), { name: meta.label }));
    this.area.addEventListener("keydown", (event) => panel.key(event));
    this.area.addEventListener("focus", () => this.sayLost());
    this.area.addEventListener("blur", () => setText(this.readout, ""));
    this.body = make("tbody");
    const column = (code: string, numeric: boolean): HTMLTableCellElement =>
      make("th", numeric ? { scope: "col", class: "number" } : { scope: "col" }, panel.text(code));
    const heading = make("tr", {}, column("time", false), column("low", true), column("high", true));
    const table = make("table", {}, make("thead", {}, heading), this.body);
    const scroll = make("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": `${panel.text("table")}: ${name}` }, table);
    const details = make("details", {}, make("summary", {}, panel.text("table")), scroll);
    details.addEventListener("toggle", () => this.fillTable(details.open));
    this.element = make("section", { class: "plot" }, head, this.area, details);
  }

  show(overview: Overview, from: number, to: number, marks: number[], endsNow: boolean): void {
    this.overview = overview;
    this.marks = marks;
    this.lost.set(overview.gaps);
    const data = this.withoutFalseGaps(overview, endsNow);
    const empty = data[1].every((v) => v === null || v === undefined);
    setText(this.readout, empty && !this.lost.all.length ? this.panel.text("empty") : "");
    if (document.activeElement === this.area) this.sayLost();
    const query = new URLSearchParams({ channels: this.id, from_ms: String(Math.floor(from)), to_ms: String(Math.ceil(to)) });
    this.csv.href = `/api/v1/kits/${encodeURIComponent(this.panel.options.kit)}/raw.csv?${query}`;
    if (!this.chart) this.chart = new uPlot(this.settings(), data, this.area);
    else this.chart.setData(data, false);
    this.chart.setScale("x", { min: from / 1000, max: to / 1000 });
    const details = this.element.querySelector("details");
    if (details?.open) this.fillTable(true);
  }

  resize(): void {
    const width = this.area.clientWidth;
    if (this.chart && width && this.chart.width !== width) this.chart.setSize({ width, height: PLOT_HEIGHT });
  }

  redraw(): void {
    this.chart?.redraw();
  }

  destroy(): void {
    this.chart?.destroy();
    this.element.remove();
  }

  /**
   * Buckets without a value are no gap where the channel is slower than a bucket, or speaks only on change: there the
   * value before holds, up to now as long as the channel is fresh. A longer silence stays a gap (null), which uPlot draws as one.
   */
  private withoutFalseGaps(overview: Overview, endsNow: boolean): uPlot.AlignedData & [number[], (number | null | undefined)[], (number | null | undefined)[]] {
    const own = overview.channels[this.id] ?? { min: [], max: [] };
    const holds = this.meta.period_ms === null ? Infinity : Math.max(2.5 * this.meta.period_ms, 5000) / overview.width_ms;
    const low: (number | null | undefined)[] = [...own.min];
    const high: (number | null | undefined)[] = [...own.max];
    this.gaps = [];
    let last = -1;
    for (let i = 0; i < low.length; i++) {
      if (low[i] === null) continue;
      const silent = i - last - 1;
      if (last >= 0 && silent > 0) {
        const lost = this.lost.between((overview.t[last] ?? 0) + overview.width_ms, overview.t[i] ?? 0);
        if (silent <= holds && !lost) {
          // undefined is skipped by uPlot, null breaks the line.
          low.fill(undefined, last + 1, i);
          high.fill(undefined, last + 1, i);
        } else {
          const at = (index: number): number => overview.t[index] ?? 0;
          this.gaps.push({ from: at(last) + overview.width_ms, to: at(i) });
        }
      }
      last = i;
    }
    const current = holds === Infinity && last >= 0 && endsNow ? this.panel.current(this.id) : null;
    if (current !== null && last < low.length - 1) {
      low.fill(undefined, last + 1);
      high.fill(undefined, last + 1);
      low[low.length - 1] = high[high.length - 1] = current;
    }
    return [overview.t.map((ms) => ms / 1000), high, low];
  }

  private stepped(): boolean {
    return this.meta.kind === "enum" || this.meta.kind === "bool" || this.meta.kind === "int";
  }

  private settings(): uPlot.Options {
    const colour = (): string => seriesColour(this.meta.series);
    // A change holds until the next one: a straight line between two would show values that never were.
    const holds = this.stepped() || this.meta.stream === EVENTS;
    const paths = holds ? uPlot.paths.stepped?.({ align: 1 }) : undefined;
    const series: uPlot.Series = { stroke: colour, width: 1.25, points: { show: false }, ...(paths ? { paths } : {}) };
    const axis: uPlot.Axis = {
      stroke: () => theme.colours().muted,
      font: theme.font(),
      grid: { stroke: () => theme.colours().line, width: 1 },
      ticks: { show: false },
    };
    return {
      width: this.area.clientWidth || 600,
      height: PLOT_HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), this.panel.options.zone),
      legend: { show: false },
      padding: [8, 28, 0, 0],
      scales: { x: { time: true, auto: false }, y: { range: (_chart, low, high) => this.valueRange(low, high) } },
      axes: [
        { ...axis, size: 28, gap: 6, space: 88, values: (_chart, ticks) => ticks.map((s) => this.clockLabel(s)) },
        {
          ...axis,
          size: 72,
          gap: 6,
          values: (_chart, ticks) => ticks.map((v) => this.valueLabel(v)),
          ...(this.meta.states || this.meta.kind === "bool" ? { incrs: [1, 2, 5, 10, 20, 50] } : {}),
        },
      ],
      series: [{}, series, series],
      bands: [{ series: [1, 2], fill: () => `${colour()}33` }],
      cursor: {
        sync: { key: "trends" },
        points: { show: false },
        y: false,
        drag: { x: true, y: false, setScale: false },
      },
      hooks: {
        setCursor: [(chart) => this.read(chart)],
        setSelect: [(chart) => this.select(chart)],
        drawClear: [(chart) => this.lost.draw(chart)],
        draw: [(chart) => this.drawMarks(chart)],
      },
    };
  }

  private clockLabel(seconds: number): string {
    return this.panel.format.time(seconds * 1000, this.panel.options.zone, this.panel.rangeMs < 600_000);
  }

  private valueLabel(value: number): string {
    if (this.meta.kind === "bool") return Number.isInteger(value) ? this.panel.format.word("bool", String(value)) : "";
    if (this.meta.states) return this.meta.states[String(value)] ?? "";
    // The axis needs no more digits than its steps have, which uPlot's own values show.
    const digits = Math.min(this.meta.decimals, Number.isInteger(value) ? 0 : this.meta.decimals);
    return this.panel.format.number(value, digits);
  }

  private valueText(value: number): string {
    if (this.meta.kind === "bool" || this.meta.states) return this.valueLabel(Math.round(value)) || String(value);
    return this.panel.format.number(value, this.meta.decimals);
  }

  private valueRange(low: number | null, high: number | null): uPlot.Range.MinMax {
    let from = low ?? this.meta.min ?? 0;
    let to = high ?? this.meta.max ?? from + 1;
    const whole = this.meta.min !== null && this.meta.max !== null ? this.meta.max - this.meta.min : 0;
    // Noise must not fill the plot: at least a twentieth of the channel's range is shown.
    const span = Math.max(to - from, whole / 20, this.stepped() ? 1 : 10 ** -this.meta.decimals * 4);
    const middle = (from + to) / 2;
    from = Math.min(from, middle - span / 2);
    to = Math.max(to, middle + span / 2);
    // Where the channel cannot go there is nothing to show, unless it went.
    if (this.meta.min !== null && (low ?? Infinity) >= this.meta.min) from = Math.max(from, this.meta.min);
    if (this.meta.max !== null && (high ?? -Infinity) <= this.meta.max) to = Math.min(to, this.meta.max);
    for (const [, limit] of this.meta.limits) {
      if (limit < from && from - limit < span) from = limit;
      if (limit > to && limit - to < span) to = limit;
    }
    const air = (to - from) * 0.08;
    return [from - air, to + air];
  }

  private drawMarks(chart: uPlot): void {
    const context = chart.ctx;
    const { left, top, width, height } = chart.bbox;
    const colours = theme.colours();
    const ratio = window.devicePixelRatio || 1;
    context.save();
    context.lineWidth = ratio;
    context.font = theme.font().replace(/^\d+px/, `${Math.round(12 * ratio)}px`);
    context.textAlign = "right";
    context.textBaseline = "alphabetic";
    let taken = -Infinity;
    for (const [name, limit] of [...this.meta.limits].reverse()) {
      const y = Math.round(chart.valToPos(limit, "y", true)) + 0.5;
      if (y < top || y > top + height) continue;
      const strong = name === "lo_lo" || name === "hi_hi";
      context.strokeStyle = context.fillStyle = strong ? colours.alarm : colours.warning;
      context.setLineDash(strong ? [] : [6 * ratio, 4 * ratio]);
      context.beginPath();
      context.moveTo(left, y);
      context.lineTo(left + width, y);
      context.stroke();
      // Above its line, a low limit's too: below it the number would stand on the time axis.
      const label = y - 4 * ratio;
      // Limits close to each other: one number is readable, two above each other are not.
      if (Math.abs(label - taken) < 13 * ratio) continue;
      taken = label;
      const text = this.panel.format.number(limit, this.meta.decimals);
      const ink = context.fillStyle;
      const wide = context.measureText(text).width + 4 * ratio;
      context.fillStyle = colours.surface;
      context.fillRect(left + width - wide, label - 11 * ratio, wide, 13 * ratio);
      context.fillStyle = ink;
      context.fillText(text, left + width, label);
    }
    context.setLineDash([]);
    context.fillStyle = colours.alarm;
    for (const mark of this.marks) {
      const x = chart.valToPos(mark / 1000, "x", true);
      if (x < left || x > left + width) continue;
      const bottom = top + height;
      context.beginPath();
      context.moveTo(x, bottom - 10 * ratio);
      context.lineTo(x + 6 * ratio, bottom);
      context.lineTo(x - 6 * ratio, bottom);
      context.fill();
    }
    context.restore();
  }

  private read(chart: uPlot): void {
    const left = chart.cursor.left ?? -1;
    if (left < 0 || !this.overview) {
      setText(this.readout, "");
      return;
    }
    const format = this.panel.format;
    const ms = chart.posToVal(left, "x") * 1000;
    const clock = (t: number): string => format.time(t, this.panel.options.zone);
    const lost = this.lost.at(ms, (2000 * (chart.posToVal(1, "x") - chart.posToVal(0, "x"))) | 0);
    if (lost) {
      setText(this.readout, this.lost.text(lost));
      return;
    }
    const gap = this.gaps.find((g) => ms >= g.from && ms < g.to);
    if (gap) {
      setText(this.readout, format.fill(this.panel.text("gap"), { from: clock(gap.from), to: clock(gap.to) }));
      return;
    }
    const own = this.overview.channels[this.id];
    let i = Math.floor((ms - (this.overview.t[0] ?? 0)) / this.overview.width_ms);
    while (i > 0 && (own?.min[i] === null || own?.min[i] === undefined)) i--;
    const low = own?.min[i];
    const high = own?.max[i];
    if (low === null || low === undefined || high === null || high === undefined) {
      setText(this.readout, "");
      return;
    }
    const text = low === high ? this.valueText(low) : `${this.valueText(low)} \u2026 ${this.valueText(high)}`;
    setText(this.readout, `${clock(ms)}   ${text} ${this.meta.unit}`);
  }

  /** For the keyboard: the last stretch that is missing; the table has them all. */
  private sayLost(): void {
    const last = this.lost.all.at(-1);
    if (last && (this.chart?.cursor.left ?? -1) < 0) setText(this.readout, this.lost.text(last));
  }

  private select(chart: uPlot): void {
    if (chart.select.width < 8) return;
    const from = chart.posToVal(chart.select.left, "x") * 1000;
    const to = chart.posToVal(chart.select.left + chart.select.width, "x") * 1000;
    chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.panel.look(to, to - from);
  }

  private fillTable(open: boolean): void {
    if (!open || !this.overview) return;
    const { t, width_ms: width } = this.overview;
    const own = this.overview.channels[this.id];
    const size = Math.max(1, Math.ceil(t.length / TABLE_ROWS));
    const rows: HTMLTableRowElement[] = [];
    for (let i = 0; i < t.length; i += size) {
      const known = (values: (number | null)[] | undefined): number[] =>
        (values ?? []).slice(i, i + size).filter((v): v is number => v !== null && v !== undefined);
      const lows = known(own?.min);
      const highs = known(own?.max);
      const start = t[i] ?? 0;
      const end = (t[Math.min(i + size, t.length) - 1] ?? start) + width;
      const clock = (ms: number): string => this.panel.format.time(ms, this.panel.options.zone);
      const cell = (values: number[], pick: (...v: number[]) => number): HTMLTableCellElement =>
        make("td", { class: "number" }, values.length ? `${this.valueText(pick(...values))} ${this.meta.unit}` : "\u2013");
      const time = make("th", { scope: "row", class: "nowrap" }, `${clock(start)}\u2013${clock(end)}`);
      rows.push(make("tr", {}, time, cell(lows, Math.min), cell(highs, Math.max)));
    }
    for (const one of this.lost.all) {
      rows.push(make("tr", { class: "lost" }, make("td", { colspan: "3" }, this.lost.text(one))));
    }
    this.body.replaceChildren(...rows);
  }

  private savePicture(): void {
    const source = this.chart?.ctx.canvas;
    if (!source) return;
    const head = 28;
    const ratio = window.devicePixelRatio || 1;
    const picture = make("canvas");
    picture.width = source.width;
    picture.height = source.height + head * ratio;
    const context = picture.getContext("2d");
    if (!context) return;
    const colours = theme.colours();
    context.fillStyle = colours.surface;
    context.fillRect(0, 0, picture.width, picture.height);
    context.fillStyle = colours.ink;
    context.font = theme.font(true).replace(/\d+px/, `${13 * ratio}px`);
    context.fillText(`${this.panel.options.kit}  ${this.meta.label}${this.meta.unit ? `, ${this.meta.unit}` : ""}`, 8 * ratio, 19 * ratio);
    context.drawImage(source, 0, head * ratio);
    picture.toBlob((blob) => {
      if (!blob) return;
      const link = make("a", { href: URL.createObjectURL(blob), download: `${this.panel.options.kit}-${this.id}.png` });
      link.click();
      URL.revokeObjectURL(link.href);
    });
  }
}
