// On every page: the clocks of the workshop and of the reader go on.
import { all, setText } from "./dom";
import { clockOf } from "./format";

document.documentElement.classList.add("js");

const served = Number(document.querySelector<HTMLMetaElement>('meta[name="hub-time"]')?.content);
const arrived = performance.now();
const clocks = all<HTMLTimeElement>("time[data-clock]").map((element) => ({
  element,
  format: clockOf(element.dataset["clock"] ?? "UTC", false),
}));

function tick(): void {
  // The hub's time, not this computer's, which may be wrong.
  const now = served + performance.now() - arrived;
  for (const { element, format } of clocks) setText(element, format.format(now));
  window.setTimeout(tick, 60_000 - (now % 60_000) + 20);
}

if (clocks.length && Number.isFinite(served)) tick();
