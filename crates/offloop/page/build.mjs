// Builds the page: one file, whose policy allows its own script and style and nothing else.
//
//     node build.mjs           writes ../src/observe/page.html
//     node build.mjs --check   fails if that file is not what the sources give

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const path = (name) => new URL(name, import.meta.url);
const text = (name) => readFileSync(path(name), "utf8");
const page = path("../src/observe/page.html");

async function bundle(entry) {
  const result = await build({
    absWorkingDir: path(".").pathname,
    entryPoints: [entry],
    bundle: true,
    minify: true,
    write: false,
    format: "iife",
    target: ["chrome123", "firefox128", "safari17.5"],
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
    charset: "utf8",
    logLevel: "warning",
  });
  return result.outputFiles[0].text.trim();
}

const hash = (content) => `'sha256-${createHash("sha256").update(content).digest("base64")}'`;

/** The licences of what is bundled, which ask to be passed on with it. */
function notices() {
  return ["preact", "uplot"]
    .map((name) => {
      const { version } = JSON.parse(text(`node_modules/${name}/package.json`));
      return `${name} ${version}\n\n${text(`node_modules/${name}/LICENSE`).trim()}`;
    })
    .join("\n\n")
    .replaceAll("--", "- -");
}

const style = await bundle("view.css");
const script = await bundle("src/main.tsx");
if (/<\/?(script|style|!--)/i.test(script + style)) throw new Error("the script or the style would end its element");
const policy = [
  "default-src 'none'",
  `script-src ${hash(script)}`,
  `style-src ${hash(style)}`,
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
].join("; ");
const parts = { POLICY: policy, STYLE: style, SCRIPT: script, NOTICES: notices() };
const result = text("view.html").replace(/\{\{([A-Z]+)\}\}/g, (_, name) => parts[name]);

if (process.argv.includes("--check")) {
  if (readFileSync(page, "utf8") !== result) {
    console.error("src/observe/page.html is not what its sources give: run `cargo xtask page`");
    process.exit(1);
  }
} else {
  writeFileSync(page, result);
  console.log(`src/observe/page.html: ${result.length} characters`);
}
