/** The outcomes, in the order of the documentation. Those that a later version adds follow. */
const ORDER = [
  "completed",
  "failed",
  "panicked",
  "crashed",
  "run_timeout",
  "queue_timeout",
  "rejected",
  "shed",
  "cancelled",
];

/** Returns whether jobs that end in this way have failed. That a job was cancelled is no fault: nobody waits for it. */
export const isFailure = (outcome: string): boolean => outcome !== "completed" && outcome !== "cancelled";

const placeOf = (outcome: string) => (ORDER.includes(outcome) ? ORDER.indexOf(outcome) : ORDER.length);

export const byOrder = (one: string, other: string): number =>
  placeOf(one) - placeOf(other) || one.localeCompare(other);
