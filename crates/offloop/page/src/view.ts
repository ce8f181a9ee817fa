// What all parts of the page use.

import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Asked } from "./dialogs.tsx";
import type { Moment } from "./history.ts";

export interface View {
  /** The moments that the plots show. */
  moments: Moment[];
  /** The seconds that the plots cover. */
  span: number;
  /** Which colours are in use: `light` or `dark`. */
  theme: string;
  /** Opens a dialog about a job. */
  ask: (asked: Asked) => void;
}

export const Context = createContext<View>({ moments: [], span: 300, theme: "light", ask: () => undefined });

export const useView = (): View => useContext(Context);
