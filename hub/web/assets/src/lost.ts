// What is known to be lost of a channel's stream: hatched stretches of its trend, and the same in words.
import type uPlot from "uplot";
import type { Format } from "./format";
import { theme } from "./theme";

/** A gap as the hub tells it; `count` is null where nobody knows how many samples are missing. */
export interface Lost {
  stream: string;
  from_ms: number;
  to_ms: number;
  reason: string;
  count: number | null;
}

const HATCH_STEP = 7;
const LEAST_WIDTH = 3;

export class LostStretches {
  private list: Lost[] = [];

  constructor(
    private readonly format: Format,
    private readonly zone: string,
    private readonly stream: string,
  ) {}

  get all(): readonly Lost[] {
    return this.list;
  }

  set(lost: Lost[]): void {
    this.list = lost.filter((one) => one.stream === this.stream);
  }

  /** Whether something was lost within this time: there no value holds on. */
  between(from: number, to: number): boolean {
    return this.list.some((one) => one.from_ms < to && one.to_ms > from);
  }

  /** The last stretch that covers this time, give or take what a pixel is. */
  at(ms: number, slack: number): Lost | undefined {
    return this.list.findLast((one) => ms >= one.from_ms - slack && ms <= one.to_ms + slack);
  }

  text(one: Lost): string {
    const { format } = this;
    const clock = (ms: number): string => format.time(ms, this.zone);
    const reason = format.word("gap", one.reason);
    const text = format.fill(format.word("trend", "lost"), { from: clock(one.from_ms), to: clock(one.to_ms), reason });
    if (one.count === null) return text;
    return `${text} (${format.fill(format.word("trend", "lost_count"), { n: format.number(one.count, 0) })})`;
  }

  /** Below the lines: diagonal hatching from top to bottom, at least a few pixels wide so that a short gap is seen. */
  draw(chart: uPlot): void {
    const context = chart.ctx;
    const { left, top, width, height } = chart.bbox;
    const ratio = window.devicePixelRatio || 1;
    const colours = theme.colours();
    context.save();
    context.strokeStyle = colours.muted;
    context.lineWidth = ratio;
    for (const one of this.list) {
      const from = Math.max(left, chart.valToPos(one.from_ms / 1000, "x", true));
      const to = Math.min(left + width, Math.max(chart.valToPos(one.to_ms / 1000, "x", true), from + LEAST_WIDTH * ratio));
      if (to <= from) continue;
      context.save();
      context.beginPath();
      context.rect(from, top, to - from, height);
      context.clip();
      context.globalAlpha = 0.55;
      context.beginPath();
      // Aligned with the plot, not with the stretch: two that touch look like one.
      const step = HATCH_STEP * ratio;
      for (let x = left + Math.floor((from - height - left) / step) * step; x < to; x += step) {
        context.moveTo(x, top + height);
        context.lineTo(x + height, top);
      }
      context.stroke();
      context.globalAlpha = 1;
      context.beginPath();
      context.moveTo(from, top + 0.5 * ratio);
      context.lineTo(to, top + 0.5 * ratio);
      context.stroke();
      context.restore();
    }
    context.restore();
  }
}
