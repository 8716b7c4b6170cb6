/**
 * When to send a request again, and after how long: pure decisions, no I/O.
 *
 * A request is repeated only where that cannot do it twice:
 *
 * 1. the server said `x-should-retry: true`: it did not execute it;
 * 2. no byte of it was sent: the connection was refused;
 * 3. it was sent, its answer is lost, and all of it is surely a read.
 *
 * `x-should-retry: false` ends everything. Tries and total time are bounded.
 */

export const Outcome = Object.freeze({
  DONE: "done", // an answer that stands: a result
  REFUSED: "refused", // an answer that stands: the request is wrong
  NOT_DONE: "not done", // surely not executed
  UNKNOWN: "unknown", // sent, and no answer that tells
  FINAL: "final", // the server itself cannot tell, and says not to repeat
});

const NOT_NOW = new Set([425, 429]); // "not now" before anything ran, when no header says more
const UNSENT = new Set(["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH"]);

/** Classify an answer; `shouldRetry` is the header `x-should-retry`: true, false or undefined. */
export function outcomeOfAnswer(status, { isError, shouldRetry }) {
  if (!isError) return Outcome.DONE;
  if (shouldRetry === true) return Outcome.NOT_DONE;
  if (NOT_NOW.has(status) && shouldRetry === undefined) return Outcome.NOT_DONE;
  if (shouldRetry === false) return Outcome.FINAL;
  return status < 500 ? Outcome.REFUSED : Outcome.UNKNOWN;
}

/** Classify a `fetch` that threw: only a connection that never stood surely sent nothing. */
export function outcomeOfFailure(error) {
  const reasons = error?.cause?.errors ?? [error?.cause]; // one for each address tried
  return reasons.every((reason) => UNSENT.has(reason?.code)) ? Outcome.NOT_DONE : Outcome.UNKNOWN;
}

export function mayRepeat(outcome, isRepeatable) {
  return outcome === Outcome.NOT_DONE || (outcome === Outcome.UNKNOWN && isRepeatable);
}

export const RETRY = Object.freeze({
  triesMax: 5, // the first try included
  totalMsMax: 20_000, // no try begins later than this after the first
  delayMsFirst: 50,
  delayMsMax: 2_000,
});

/**
 * Return how long to wait before another try, or null to give up. `chance` is in [0, 1).
 * The delay doubles and is drawn from its upper half, so that clients that were cut off
 * together do not come back together; the server's `retry-after` is a lower bound.
 */
export function nextDelayMs(policy, { tries, elapsedMs, retryAfterMs, chance }) {
  if (tries >= policy.triesMax) return null;
  const ceiling = Math.min(policy.delayMsMax, policy.delayMsFirst * 2 ** (tries - 1));
  const delayMs = Math.max(ceiling * (0.5 + chance / 2), retryAfterMs ?? 0);
  return elapsedMs + delayMs <= policy.totalMsMax ? delayMs : null;
}
