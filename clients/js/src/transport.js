/**
 * D1's binding protocol over HTTP: requests, sent again where that is safe (`retry.js` decides).
 *
 * A request is `POST /query` with an array of { sql, params }, which is one transaction. The
 * answer is an array with one element for each, or one object with an `error`, whatever its
 * status is. The connections are `fetch`'s own; there is nothing to close.
 */

import { D1Error, QUERY } from "./errors.js";
import { mayRepeat, nextDelayMs, Outcome, outcomeOfAnswer, outcomeOfFailure, RETRY } from "./retry.js";

const BOOKMARK = "x-cf-d1-session-commit-token";
// Longer than a node's own limits (5 s of waiting, 30 s of SQL), so that its answer comes first.
const TIMEOUT_MS = 40_000;
const NO_ANSWER = Object.freeze({ status: 0, results: [], text: "" });

export class Transport {
  #url;
  #headers;
  #fetch;
  #timeoutMs;
  #policy;

  constructor(url, { database, token, timeoutMs = TIMEOUT_MS, retry = {}, fetch = globalThis.fetch }) {
    if (typeof database !== "string" || database === "") {
      throw new TypeError("connect(url, { database }) needs the name of the database");
    }
    const base = new URL(url);
    base.pathname = `${base.pathname.replace(/\/+$/, "")}/query`;
    base.search = "?resultsFormat=ROWS_AND_COLUMNS";
    this.#url = base.href;
    this.#headers = { "content-type": "application/json", "x-d1-database": database };
    if (token !== undefined) this.#headers.authorization = `Bearer ${token}`;
    this.#fetch = fetch;
    this.#timeoutMs = timeoutMs;
    this.#policy = { ...RETRY, ...retry };
  }

  /**
   * Run `statements` ({ sql, params }) as one transaction; return a { columns, rows, meta } for
   * each. Throws D1Error; `onBookmark` hears of the bookmark first, also when it throws.
   */
  async run(statements, { bookmark, isRepeatable, onBookmark }) {
    const body = JSON.stringify(statements);
    const startedMs = performance.now();
    for (let tries = 1; ; tries += 1) {
      const answer = await this.#try(body, bookmark);
      if (answer.bookmark) onBookmark(answer.bookmark);
      if (answer.outcome === Outcome.DONE) return answer.results;
      const delayMs = mayRepeat(answer.outcome, isRepeatable)
        ? nextDelayMs(this.#policy, {
            tries,
            elapsedMs: performance.now() - startedMs,
            retryAfterMs: answer.retryAfterMs,
            chance: Math.random(),
          })
        : null;
      if (delayMs === null) throw errorOf(answer);
      await new Promise((resolve) => setTimeout(resolve, delayMs));
    }
  }

  async #try(body, bookmark) {
    const headers = bookmark ? { ...this.#headers, [BOOKMARK]: bookmark } : this.#headers;
    const signal = AbortSignal.timeout(this.#timeoutMs);
    try {
      const response = await this.#fetch(this.#url, { method: "POST", headers, body, signal });
      return read(response, await response.text());
    } catch (error) {
      return { ...NO_ANSWER, outcome: outcomeOfFailure(error), text: lost(error) };
    }
  }
}

function read(response, text) {
  const body = parsed(text);
  const error = body?.error ?? body?.errors?.[0]?.message; // the latter from what is before D1
  const isError = !Array.isArray(body);
  return {
    outcome: outcomeOfAnswer(response.status, {
      isError,
      shouldRetry: shouldRetry(response.headers.get("x-should-retry"), error),
    }),
    status: response.status,
    results: isError ? [] : body.map(({ results, meta }) => ({ ...results, meta })),
    text: error ?? `Failed to parse body as JSON, got: ${text.slice(0, 200)}`,
    bookmark: response.headers.get(BOOKMARK),
    retryAfterMs: seconds(response.headers.get("retry-after")) * 1000,
  };
}

/** What the server says about sending the request again: by header, or by D1's words for it. */
function shouldRetry(header, error) {
  const said = { true: true, false: false }[header];
  return said ?? (error?.startsWith("Network connection lost.") ? true : undefined);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // a proxy's page, or an answer cut short
  }
}

/** Read a `Retry-After` in seconds; its date form and garbage say nothing. */
function seconds(text) {
  const value = Number(text);
  return value >= 0 && value < 3600 ? value : 0;
}

function lost(error) {
  const reason = error?.cause?.code ?? error?.cause?.message ?? error?.name;
  return `Network connection lost. (${reason})`;
}

function errorOf({ outcome, status, text }) {
  const told = outcome === Outcome.FINAL ? Outcome.UNKNOWN : outcome;
  return new D1Error(status === 0 ? "" : QUERY, text, told);
}
