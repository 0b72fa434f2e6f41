// The health page asks for its own newer self every few seconds, through htmx; when the hub does not answer it says so.
import htmx from "htmx.org";
import { one } from "./dom";

// Error pages must not take the place of the last good answer.
Object.assign(htmx.config, { noSwap: [204, 304, "4xx", "5xx"] });

const SILENT_MS = 9500;
let heard = performance.now();

document.addEventListener("htmx:after:swap", () => {
  heard = performance.now();
});

window.setInterval(() => {
  const silent = performance.now() - heard > SILENT_MS;
  one("#linkbar").hidden = !silent;
  document.body.classList.toggle("link-silent", silent);
}, 1000);
