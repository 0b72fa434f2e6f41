// How numbers, ages and times are written; the same text as ../../formats.py writes: change both together.

export type Words = Record<string, Record<string, string>>;

const MINUS = "\u2212";
const DAY_SHOWN_MS = 20 * 3_600_000;

export class Format {
  private readonly clocks = new Map<string, Intl.DateTimeFormat>();

  constructor(
    readonly language: string,
    readonly words: Words,
  ) {}

  word(list: string, code: string): string {
    return this.words[list]?.[code] ?? code;
  }

  fill(text: string, values: Record<string, string | number>): string {
    return text.replace(/\{(\w+)\}/g, (all, name: string) => String(values[name] ?? all));
  }

  number(value: number, decimals: number): string {
    if (!Number.isFinite(value)) return "\u2013";
    const plain = Math.abs(value).toFixed(decimals);
    const text = this.language === "ru" ? plain.replace(".", ",") : plain;
    return value < 0 && Number(plain) !== 0 ? MINUS + text : text;
  }

  age(seconds: number): string {
    const s = Math.max(0, seconds);
    const say = (unit: string, amount: string): string => this.fill(this.word("age", unit), { n: amount });
    if (s < 9.95) return say("s", this.number(s, 1));
    if (s < 120) return say("s", s.toFixed(0));
    if (s < 7200) return say("min", (s / 60).toFixed(0));
    if (s < 172_800) return say("h", (s / 3600).toFixed(0));
    return say("d", (s / 86_400).toFixed(0));
  }

  /** Time of day, with the day before it where that is not clear: more than 20 h away. */
  moment(ms: number, now: number, zone: string): string {
    const time = this.time(ms, zone);
    if (Math.abs(now - ms) < DAY_SHOWN_MS) return time;
    const locale = { zh: "zh-CN", ru: "ru-RU" }[this.language] ?? "en-GB";
    return `${new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeZone: zone }).format(ms)} ${time}`;
  }

  time(ms: number, zone: string, seconds = true): string {
    const key = `${zone} ${seconds}`;
    let clock = this.clocks.get(key);
    if (!clock) {
      clock = clockOf(zone, seconds);
      this.clocks.set(key, clock);
    }
    return clock.format(ms);
  }
}

export function clockOf(zone: string, seconds: boolean): Intl.DateTimeFormat {
  const parts: Intl.DateTimeFormatOptions = { timeZone: zone, hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Intl.DateTimeFormat("en-GB", seconds ? { ...parts, second: "2-digit" } : parts);
}
