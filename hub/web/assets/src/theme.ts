// Colours and fonts of the style sheet for what is drawn on a canvas, in light and dark.

export interface Colours {
  ink: string;
  muted: string;
  line: string;
  surface: string;
  alarm: string;
  warning: string;
  series: string[];
}

class Theme {
  private found: Colours | null = null;
  private readonly listeners: (() => void)[] = [];

  constructor() {
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.found = null;
      for (const listener of this.listeners) listener();
    });
  }

  onChange(listener: () => void): void {
    this.listeners.push(listener);
  }

  colours(): Colours {
    if (!this.found) {
      const style = getComputedStyle(document.documentElement);
      const value = (name: string): string => style.getPropertyValue(name).trim();
      this.found = {
        ink: value("--ink"),
        muted: value("--muted"),
        line: value("--line"),
        surface: value("--surface"),
        alarm: value("--alarm"),
        warning: value("--warning-text"),
        series: [0, 1, 2, 3, 4, 5, 6, 7].map((i) => value(`--series-${i}`)),
      };
    }
    return this.found;
  }

  font(bold = false): string {
    return `${bold ? "600 " : ""}13px ${getComputedStyle(document.body).fontFamily}`;
  }
}

export const theme = new Theme();

/** The same colour for the same channel everywhere. */
export function seriesColour(series: number): string {
  const colours = theme.colours().series;
  return colours[series % colours.length] ?? theme.colours().ink;
}
