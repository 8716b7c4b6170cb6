/**
 * Whether a text of SQL is surely a read, so that sending it twice can do no harm.
 *
 * There is no SQL parser here and none is needed: a wrong "no" costs a retry, a wrong "yes"
 * could write twice, so every doubt is a no. A statement is surely a read when its first word
 * is SELECT, EXPLAIN or WITH, it is the only statement of its text, and, for WITH, no word of
 * the text could begin a write.
 */

// What may hide a keyword or a semicolon. The group catches a quote or a comment that never
// ends: such a text is no sure read.
const OPAQUE =
  /'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)*`|\[[^\]]*\]|--[^\n]*(?:\n|$)|\/\*[^]*?\*\/|(['"`[]|\/\*)/g;
const READING = /^\s*(SELECT|EXPLAIN|WITH)(?![\w$])/i;
const WRITING = /\b(?:INSERT|UPDATE|DELETE|REPLACE)\b/i;

export function isSurelyRead(sql) {
  let isOpen = false;
  const bare = sql
    .replace(OPAQUE, (_, open) => {
      isOpen ||= open !== undefined;
      return " ";
    })
    .replace(/[; \t\r\n]+$/, "");
  const first = READING.exec(bare);
  if (isOpen || first === null || bare.includes(";")) return false;
  return first[1].toUpperCase() !== "WITH" || !WRITING.test(bare);
}
