/** Steps of a scripted server. */

export const HANG_UP = Symbol("hang up");

/** One row in the shape of the wire. */
export function answerOk(bookmark) {
  const results = { columns: ["a"], rows: [[1]] };
  return {
    headers: bookmark ? { "x-d1-bookmark": bookmark } : {},
    body: { success: true, result: [{ success: true, results, meta: { duration: 0.1 } }] },
  };
}
