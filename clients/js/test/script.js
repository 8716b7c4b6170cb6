/** Steps of a scripted server. */

export const HANG_UP = Symbol("hang up");

/** One row in the shape of the wire. */
export function answerOk(bookmark) {
  const results = { columns: ["a"], rows: [[1]] };
  return {
    headers: bookmark ? { "x-cf-d1-session-commit-token": bookmark } : {},
    body: [{ success: true, results, meta: { duration: 0.1 } }],
  };
}
