// Bundles the style sheet and the TypeScript islands into ../static/dist under content-hashed names, each with a
// brotli file beside it, and writes manifest.json: {"digest": ..., "files": {source name: served name}}.
// Called by ../build_assets.py with the digest of all inputs as its only argument.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliCompressSync, constants } from "node:zlib";
import * as esbuild from "esbuild";
import postcss from "postcss";
import { PurgeCSS } from "purgecss";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "..", "static", "dist");
const digest = process.argv[2] ?? "";
const files = {};

// Classes that a library makes by itself, where no purge can see them.
const safelist = { greedy: [/^uplot$/, /^u-/] };

function hashed(name, content) {
  const hash = createHash("sha256").update(content).digest("base64url").slice(0, 10);
  const dot = name.lastIndexOf(".");
  return `${name.slice(0, dot)}-${hash}${name.slice(dot)}`;
}

function write(name, content) {
  const served = hashed(name, content);
  writeFileSync(join(dist, served), content);
  files[name] = served;
  return served;
}

// Dark mode follows the system without JavaScript: rules for an attribute that only a script could set become rules
// of a media query.
const darkByMedia = {
  postcssPlugin: "dark-by-media",
  Rule(rule) {
    const parent = rule.parent;
    if (parent?.type === "atrule" && /prefers-color-scheme/.test(parent.params)) return;
    const dark = rule.selectors.filter((s) => /\[data-bs-theme=["']?dark["']?\]/.test(s));
    if (!dark.length) return;
    const rest = rule.selectors.filter((s) => !dark.includes(s));
    const media = postcss.atRule({ name: "media", params: "screen and (prefers-color-scheme: dark)" });
    const copy = rule.clone({
      selectors: dark.map((s) => s.replace(/(?:body|html|:root)?\[data-bs-theme=["']?dark["']?\]/g, ":root")),
    });
    media.append(copy);
    rule.after(media);
    if (rest.length) rule.selectors = rest;
    else rule.remove();
  },
};

// The pages' content security policy allows nothing but files of the hub: pictures inside the style sheet become files.
const picturesAsFiles = {
  postcssPlugin: "pictures-as-files",
  Declaration(declaration) {
    declaration.value = declaration.value.replace(
      /url\((["'])data:image\/svg\+xml,(.*?)\1\)/g,
      (_all, _quote, data) => {
        const svg = decodeURIComponent(data);
        const name = `icon-${createHash("sha256").update(svg).digest("hex").slice(0, 8)}.svg`;
        return `url("${files[name] ?? write(name, svg)}")`;
      },
    );
  },
};

// What Tabler declares for every component and colour, most of it for parts that the pages do not have.
const unusedCustomProperties = {
  postcssPlugin: "unused-custom-properties",
  OnceExit(root) {
    for (let removed = true; removed; ) {
      removed = false;
      const used = new Set();
      root.walkDecls((d) => {
        for (const m of d.value.matchAll(/var\(\s*(--[\w-]+)/g)) used.add(m[1]);
      });
      root.walkDecls(/^--/, (d) => {
        if (used.has(d.prop)) return;
        const rule = d.parent;
        d.remove();
        if (rule && rule.nodes.length === 0) rule.remove();
        removed = true;
      });
    }
    root.walkAtRules("media", (rule) => {
      if (rule.nodes && rule.nodes.length === 0) rule.remove();
    });
  },
};

/** Of the library what the pages use, of our own sheet everything: a purge would take `:focus-visible` for unused. */
async function styleSheet(name, library, own) {
  const raw = readFileSync(library, "utf8").replace(/^@charset[^;]*;/gm, "");
  const [purged] = await new PurgeCSS().purge({
    content: [join(here, "../templates/**/*.html"), join(here, "src/**/*.ts")].map((p) => p.replaceAll("\\", "/")),
    css: [{ raw }],
    safelist,
    keyframes: true,
    fontFace: true,
    // Of a Jinja expression only the words count.
    defaultExtractor: (text) => text.match(/[A-Za-z0-9_-]+/g) ?? [],
  });
  const done = await postcss([darkByMedia, picturesAsFiles, unusedCustomProperties]).process(`${purged.css}\n${readFileSync(own, "utf8")}`, { from: undefined });
  const { code } = await esbuild.transform(done.css, { loader: "css", minify: true, target: "es2022", legalComments: "none" });
  write(name, code);
}

async function islands() {
  const result = await esbuild.build({
    entryPoints: ["page.ts", "workshop.ts", "kit.ts", "health.ts"].map((name) => join(here, "src", name)),
    bundle: true,
    splitting: true,
    format: "esm",
    target: "es2022",
    minify: true,
    legalComments: "none",
    outdir: dist,
    entryNames: "[name]-[hash]",
    chunkNames: "part-[hash]",
    metafile: true,
    logLevel: "warning",
  });
  for (const [path, output] of Object.entries(result.metafile.outputs)) {
    const served = basename(path);
    files[output.entryPoint ? `${basename(output.entryPoint, ".ts")}.js` : served] = served;
  }
}

rmSync(dist, { recursive: true, force: true });
mkdirSync(dist, { recursive: true });
const tabler = join(here, "node_modules/@tabler/core/dist/css/tabler.min.css");
await styleSheet("hub.css", tabler, join(here, "src/hub.css"));
await styleSheet("charts.css", join(here, "node_modules/uplot/dist/uPlot.min.css"), join(here, "src/charts.css"));
await islands();
write("favicon.svg", readFileSync(join(here, "src/favicon.svg"), "utf8"));
for (const name of readdirSync(dist)) {
  const content = readFileSync(join(dist, name));
  const options = { params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: content.length } };
  writeFileSync(join(dist, `${name}.br`), brotliCompressSync(content, options));
}
// Written last: a build that broke off leaves no manifest, and the next one starts again.
writeFileSync(join(dist, "manifest.json"), `${JSON.stringify({ digest, files }, null, 1)}\n`);
