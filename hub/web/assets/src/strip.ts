// Strip chart of one stream: receives numbered frames of samples and draws the last seconds, newest at the right edge.
// It redraws when samples come, not at the screen's rate, and breaks the line wherever samples are missing.
import { all, one, setText } from "./dom";
import type { Format } from "./format";
import { seriesColour, theme } from "./theme";

export interface StreamData {
  index: number;
  rate: number;
  channels: { id: string; label: string; unit: string; series: number }[];
}

const WINDOWS_S = [2, 5, 10];
const KEPT_S = 12;
const LEAST_REDRAW_MS = 40;
const CALM_REDRAW_MS = 500;
const HEADER_BYTES = 16;
const LABEL_WIDTH = 76;
const AXIS_HEIGHT = 22;
const NOW_WIDTH = 72;
/** How far a line may reach into the lane beside it, in lanes. */
const OVERLAP = 0.15;
/** A lane is off scale from this share of its samples on: a blink is none, an electrode that has come off is. */
const OFF_SCALE_SHARE = 0.1;

/** The last seconds of all channels; times are those of the equipment, in ms. */
class Window {
  readonly times: Float64Array;
  readonly values: Float32Array;
  start = 0;
  length = 0;

  constructor(
    readonly channels: number,
    readonly capacity: number,
  ) {
    this.times = new Float64Array(capacity);
    this.values = new Float32Array(channels * capacity);
  }

  push(first: number, period: number, n: number, samples: Float32Array): void {
    for (let i = 0; i < n; i++) {
      const at = (this.start + this.length) % this.capacity;
      this.times[at] = first + i * period;
      for (let c = 0; c < this.channels; c++) this.values[c * this.capacity + at] = samples[c * n + i] ?? NaN;
      if (this.length < this.capacity) this.length++;
      else this.start = (this.start + 1) % this.capacity;
    }
  }

  copy(): Window {
    const other = new Window(this.channels, this.capacity);
    other.times.set(this.times);
    other.values.set(this.values);
    other.start = this.start;
    other.length = this.length;
    return other;
  }

  time(i: number): number {
    return this.times[(this.start + i) % this.capacity] ?? NaN;
  }

  value(channel: number, i: number): number {
    return this.values[channel * this.capacity + ((this.start + i) % this.capacity)] ?? NaN;
  }

  get last(): number {
    return this.length ? this.time(this.length - 1) : NaN;
  }

  /** Index of the first sample not older than `ms`. */
  from(ms: number): number {
    let low = 0;
    let high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.time(middle) < ms) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

export class StripChart {
  private readonly live: Window;
  private frozen: Window | null = null;
  private frozenEnd = 0;
  private windowS = 10;
  private readonly scales: number[];
  private readonly period: number;
  private readonly canvas: HTMLCanvasElement;
  private readonly calm = matchMedia("(prefers-reduced-motion: reduce)");
  private scheduled = false;
  private drawn = 0;
  private received = -Infinity;

  constructor(
    private readonly card: HTMLElement,
    private readonly stream: StreamData,
    private readonly format: Format,
    private readonly now: () => number,
  ) {
    this.period = 1000 / stream.rate;
    this.live = new Window(stream.channels.length, Math.ceil(stream.rate * KEPT_S));
    this.canvas = one<HTMLCanvasElement>("canvas", card);
    const everyone = one<HTMLSelectElement>("[data-act=scale-all]", card);
    this.scales = stream.channels.map(() => Number(everyone.value));
    everyone.addEventListener("change", () => this.scaleAll(Number(everyone.value)));
    for (const [i, select] of this.selects().entries()) {
      select.addEventListener("change", () => {
        this.scales[i] = Number(select.value);
        this.schedule();
      });
    }
    one("[data-act=pause]", card).addEventListener("click", () => this.togglePause());
    one("[data-act=shorter]", card).addEventListener("click", () => this.zoom(-1));
    one("[data-act=longer]", card).addEventListener("click", () => this.zoom(1));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.schedule()).observe(this.canvas);
    theme.onChange(() => this.schedule());
    setText(one("[data-field=note]", card), format.word("strip", "waiting"));
  }

  /** A frame of samples: header <u32 number, u16 n, u8 channels, u8 stream, f64 first time in ms>, f32[channels][n]. */
  frame(data: ArrayBuffer): void {
    const view = new DataView(data);
    const number = view.getUint32(0, true);
    const n = view.getUint16(4, true);
    const channels = view.getUint8(6);
    const first = view.getFloat64(8, true);
    if (channels !== this.stream.channels.length || data.byteLength !== HEADER_BYTES + 4 * channels * n) {
      throw new Error(`stream frame ${number}: ${channels} channels and ${data.byteLength} bytes do not fit this stream`);
    }
    // Late or repeated samples would run the line backwards. What the hub dropped for a slow link, the equipment lost or
    // a broken connection missed shows alike: as a step in time that is longer than a sample.
    if (first <= this.live.last) return;
    this.live.push(first, this.period, n, new Float32Array(data, HEADER_BYTES));
    this.received = performance.now();
    this.schedule();
  }

  /** Once a second: the values as text, and the growing gap at the right edge once samples no longer come. */
  tick(): void {
    if (this.live.length && performance.now() - this.received > 1000) this.schedule();
    if (this.frozen) return;
    const end = this.live.last;
    const from = this.live.from(end - 1000);
    const fresh = performance.now() - this.received < 3000;
    for (const [c, row] of all<HTMLTableRowElement>("[data-strip]", this.card).entries()) {
      const channel = this.stream.channels[c];
      if (!channel) continue;
      let sum = 0;
      let squares = 0;
      let low = Infinity;
      let high = -Infinity;
      let n = 0;
      for (let i = from; i < this.live.length; i++) {
        const v = this.live.value(c, i);
        if (Number.isNaN(v)) continue;
        sum += v;
        squares += v * v;
        low = Math.min(low, v);
        high = Math.max(high, v);
        n++;
      }
      const say = (v: number): string => (n ? `${this.format.number(v, 1)} ${channel.unit}` : "\u2013");
      const rms = Math.sqrt(Math.max(0, squares / n - (sum / n) ** 2));
      row.classList.toggle("is-old", !fresh);
      setText(one("[data-field=rms]", row), say(rms));
      setText(one("[data-field=pp]", row), say(high - low));
    }
  }

  private selects(): HTMLSelectElement[] {
    return all<HTMLSelectElement>("[data-act=scale]", this.card);
  }

  private scaleAll(scale: number): void {
    this.scales.fill(scale);
    for (const select of this.selects()) select.value = String(scale);
    this.schedule();
  }

  private stepScale(step: number): void {
    const everyone = one<HTMLSelectElement>("[data-act=scale-all]", this.card);
    const index = Math.min(Math.max(everyone.selectedIndex + step, 0), everyone.options.length - 1);
    everyone.selectedIndex = index;
    this.scaleAll(Number(everyone.value));
  }

  private zoom(step: number): void {
    const index = Math.min(Math.max(WINDOWS_S.indexOf(this.windowS) + step, 0), WINDOWS_S.length - 1);
    this.windowS = WINDOWS_S[index] ?? 10;
    setText(one("[data-field=window]", this.card), this.format.fill(this.format.word("strip", "window"), { n: this.windowS }));
    this.schedule();
  }

  private togglePause(): void {
    const paused = this.frozen === null;
    this.frozenEnd = this.end(this.live);
    this.frozen = paused ? this.live.copy() : null;
    const button = one("[data-act=pause]", this.card);
    button.setAttribute("aria-pressed", String(paused));
    setText(button, this.format.word("strip", paused ? "resume" : "pause"));
    this.schedule();
  }

  private key(event: KeyboardEvent): void {
    const actions: Record<string, () => void> = {
      " ": () => this.togglePause(),
      "+": () => this.zoom(-1),
      "=": () => this.zoom(-1),
      "-": () => this.zoom(1),
      ArrowUp: () => this.stepScale(-1),
      ArrowDown: () => this.stepScale(1),
    };
    const action = actions[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    const least = this.calm.matches ? CALM_REDRAW_MS : LEAST_REDRAW_MS;
    const wait = Math.max(0, least - (performance.now() - this.drawn));
    window.setTimeout(() => {
      requestAnimationFrame(() => {
        this.scheduled = false;
        this.drawn = performance.now();
        this.draw();
      });
    }, wait);
  }

  /** Time at the right edge: the newest sample while they come, the hub's time once they do not. */
  private end(samples: Window): number {
    if (performance.now() - this.received < 1500) return samples.last;
    return Math.max(this.now(), samples.last);
  }

  private draw(): void {
    const samples = this.frozen ?? this.live;
    const ratio = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    if (!width || !height) return;
    if (this.canvas.width !== Math.round(width * ratio)) this.canvas.width = Math.round(width * ratio);
    if (this.canvas.height !== Math.round(height * ratio)) this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const end = this.frozen ? this.frozenEnd : this.end(samples);
    const begin = end - this.windowS * 1000;
    const plotHeight = height - AXIS_HEIGHT;
    this.drawAxis(context, width, plotHeight);
    const first = Math.max(0, samples.from(begin));
    // Half a lane stays free above the first channel: electrodes above the eyes stand there, and blinks go up.
    const lane = plotHeight / (this.stream.channels.length + 0.5);
    for (let c = 0; c < this.stream.channels.length; c++) {
      this.drawChannel(context, samples, c, first, begin, width, lane);
    }
    this.note(samples, first);
  }

  private drawAxis(context: CanvasRenderingContext2D, width: number, bottom: number): void {
    const colours = theme.colours();
    context.font = theme.font();
    context.lineWidth = 1;
    context.textBaseline = "top";
    const step = this.windowS > 5 ? 2 : this.windowS > 2 ? 1 : 0.5;
    for (let s = 0; s <= this.windowS + 0.01; s += step) {
      const x = Math.round(width - (s / this.windowS) * (width - LABEL_WIDTH)) - 0.5;
      context.strokeStyle = colours.line;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, bottom);
      context.stroke();
      // On a phone the first label would run into "now".
      if (s > 0 && width - x < NOW_WIDTH) continue;
      context.fillStyle = colours.muted;
      context.textAlign = s === 0 ? "right" : "center";
      const decimals = step < 1 ? 1 : 0;
      const text = this.format.fill(this.format.word("age", "s"), { n: this.format.number(-s, decimals) });
      const label = s === 0 ? (this.frozen ? this.format.word("strip", "paused") : this.format.word("trend", "now")) : text;
      context.fillText(label, x, bottom + 5);
    }
  }

  private drawChannel(
    context: CanvasRenderingContext2D,
    samples: Window,
    c: number,
    first: number,
    begin: number,
    width: number,
    lane: number,
  ): void {
    const channel = this.stream.channels[c];
    const scale = this.scales[c] ?? 100;
    if (!channel) return;
    const colours = theme.colours();
    const middle = Math.round(lane * (c + 1)) + 0.5;
    context.fillStyle = colours.ink;
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.font = theme.font(true);
    context.fillText(channel.label, 0, middle - 1, LABEL_WIDTH - 8);
    context.fillStyle = colours.muted;
    context.font = theme.font();
    const full = this.format.fill(this.format.word("strip", "full_scale"), { n: scale, unit: channel.unit });
    context.fillText(full, 0, middle + 14, LABEL_WIDTH - 8);
    let sum = 0;
    let n = 0;
    for (let i = first; i < samples.length; i++) {
      const v = samples.value(c, i);
      if (!Number.isNaN(v)) {
        sum += v;
        n++;
      }
    }
    if (!n) return;
    const mean = sum / n;
    const perUnit = (lane * 0.5) / scale;
    const up = c ? lane * (0.5 + OVERLAP) : middle;
    const down = lane * (0.5 + OVERLAP);
    let beyond = 0;
    for (let i = first; i < samples.length; i++) {
      const above = (samples.value(c, i) - mean) * perUnit;
      if (above > up || above < -down) beyond++;
    }
    const offScale = beyond > n * OFF_SCALE_SHARE;
    const perMs = (width - LABEL_WIDTH) / (this.windowS * 1000);
    context.save();
    context.beginPath();
    // What is off scale keeps to its own lane, and pale: its neighbours are still to be read.
    if (offScale) context.rect(LABEL_WIDTH, middle - lane * 0.45, width - LABEL_WIDTH, lane * 0.9);
    else context.rect(LABEL_WIDTH, middle - up, width - LABEL_WIDTH, up + down);
    context.clip();
    context.globalAlpha = offScale ? 0.35 : 1;
    context.strokeStyle = seriesColour(channel.series);
    context.lineWidth = 1.1;
    context.lineJoin = "round";
    context.beginPath();
    let before = NaN;
    for (let i = first; i < samples.length; i++) {
      const v = samples.value(c, i);
      const t = samples.time(i);
      if (Number.isNaN(v)) {
        before = NaN;
        continue;
      }
      const x = LABEL_WIDTH + (t - begin) * perMs;
      const y = middle - (v - mean) * perUnit;
      if (t - before < this.period * 2.5) context.lineTo(x, y);
      else context.moveTo(x, y);
      before = t;
    }
    context.stroke();
    context.restore();
    if (offScale) this.markOffScale(context, middle);
  }

  /** The word on the lane, framed, so that it reads on whatever is drawn below. */
  private markOffScale(context: CanvasRenderingContext2D, middle: number): void {
    const colours = theme.colours();
    const text = this.format.word("strip", "off_scale");
    context.font = theme.font(true);
    context.textAlign = "left";
    context.textBaseline = "middle";
    const box = [LABEL_WIDTH + 6.5, middle - 12, Math.ceil(context.measureText(text).width) + 16, 24] as const;
    context.fillStyle = colours.surface;
    context.fillRect(...box);
    context.strokeStyle = colours.warning;
    context.lineWidth = 1;
    context.strokeRect(...box);
    context.fillStyle = colours.warning;
    context.fillText(text, box[0] + 8, middle + 1);
  }

  private note(samples: Window, first: number): void {
    let missing = 0;
    for (let i = Math.max(first, 1); i < samples.length; i++) {
      const step = samples.time(i) - samples.time(i - 1);
      if (step > this.period * 2.5) missing += Math.round(step / this.period) - 1;
    }
    const words = this.format.word.bind(this.format);
    const text = missing ? this.format.fill(words("strip", "lost"), { n: missing }) : samples.length ? "" : words("strip", "waiting");
    setText(one("[data-field=note]", this.card), text);
  }
}
