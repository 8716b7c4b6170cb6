/**
 * Parameters as they go on the wire, and rows as the caller gets them: pure.
 *
 * D1's rules: booleans are 1 and 0, bytes travel as arrays of numbers in both directions, NaN
 * and the infinities become NULL (as JSON writes them), and every number is a double.
 */

import { refusal, TYPE } from "./errors.js";

/** Return a parameter for JSON. Throws for what SQL cannot hold. */
export function wireValue(value) {
  switch (typeof value) {
    case "number":
    case "string":
      return value;
    case "boolean":
      return value ? 1 : 0;
    case "object":
      if (value === null) return null;
      if (Array.isArray(value) && value.every(isByte)) return value;
      if (value instanceof ArrayBuffer) return Array.from(new Uint8Array(value));
      if (ArrayBuffer.isView(value)) {
        return Array.from(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
      }
  }
  throw refusal(TYPE, `Type '${typeof value}' not supported for value '${String(value)}'`);
}

function isByte(value) {
  return Number.isInteger(value) && value >= 0 && value <= 255;
}

/** Return rows as objects; of columns with the same name the last one stands. */
export function rowObjects({ columns, rows }) {
  return rows.map((row) => Object.fromEntries(columns.map((name, at) => [name, row[at]])));
}
