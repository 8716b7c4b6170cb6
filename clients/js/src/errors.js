/**
 * The one class of errors, with D1's messages.
 *
 * `outcome` tells what the catcher may do:
 *
 *     "refused"   the request is wrong as it stands: correct it
 *     "not done"  surely not executed, and every try is used up: the same may be sent later
 *     "unknown"   executed or not, nobody can tell from here: look at the data before repeating
 *
 * As in a Worker, `message` is the text of `cause` after a prefix such as "D1_ERROR: ", and
 * the name stays "Error". A lost connection has no prefix: programs match it by its beginning.
 */
export class D1Error extends Error {
  constructor(prefix, text, outcome) {
    super(prefix + text, { cause: new Error(text) });
    this.outcome = outcome;
  }
}

export const QUERY = "D1_ERROR: ";
export const TYPE = "D1_TYPE_ERROR: ";

/** An error that this client found before it sent anything. */
export function refusal(prefix, text) {
  return new D1Error(prefix, text, "refused");
}
