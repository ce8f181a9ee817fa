import { render } from "preact";
import { App } from "./app.tsx";
import { applyTheme, storedTheme } from "./theme.ts";

applyTheme(storedTheme());
const view = document.getElementById("view");
if (view !== null) {
  view.replaceChildren();
  render(<App />, view);
}
