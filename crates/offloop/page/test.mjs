// Runs the unit tests of the page's scripts: bundles them, since Node.js does not read all of TypeScript, and imports the result.

import { build } from "esbuild";

const { outputFiles } = await build({
  absWorkingDir: new URL(".", import.meta.url).pathname,
  entryPoints: ["src/tests.ts"],
  bundle: true,
  write: false,
  format: "esm",
  platform: "node",
  target: "node18",
});
await import(`data:text/javascript;base64,${Buffer.from(outputFiles[0].contents).toString("base64")}`);
