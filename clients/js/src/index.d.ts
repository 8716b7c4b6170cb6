/** Types of `d1server-client`: those of D1's binding, and `connect`. */

export interface ConnectOptions {
  /** The name of the database on the node. */
  database: string;
  /** Sent as `Authorization: Bearer`. */
  token?: string;
  /** How long one try may take; 40,000 ms unless told. */
  timeoutMs?: number;
  /** How often and how patiently a request is sent again. */
  retry?: Partial<RetryPolicy>;
  /** What sends the requests, if not the global `fetch`. */
  fetch?: typeof fetch;
}

export interface RetryPolicy {
  triesMax: number;
  totalMsMax: number;
  delayMsFirst: number;
  delayMsMax: number;
}

/** Return the database called `options.database` of the node at `url`. */
export function connect(url: string | URL, options: ConnectOptions): D1Database;

/** What goes in: blobs as bytes or as numbers 0 to 255. They come out as arrays of numbers. */
export type D1Value = null | boolean | number | string | ArrayBuffer | ArrayBufferView | number[];

export interface D1Meta {
  duration: number;
  size_after: number;
  rows_read: number;
  rows_written: number;
  last_row_id: number;
  changed_db: boolean;
  changes: number;
  served_by?: string;
  served_by_region?: string;
  served_by_primary?: boolean;
  timings?: { sql_duration_ms: number };
  total_attempts?: number;
  /** How long the node waited for the session's bookmark. */
  waited_ms?: number;
  /** How far it was behind the primary when it answered. */
  lag_ms?: number;
}

export interface D1Result<T = unknown> {
  success: true;
  meta: D1Meta & Record<string, unknown>;
  results: T[];
}

export interface D1ExecResult {
  count: number;
  duration: number;
}

export type D1SessionConstraint = "first-primary" | "first-unconstrained";
export type D1SessionBookmark = string;

export declare abstract class D1PreparedStatement {
  bind(...values: unknown[]): D1PreparedStatement;
  first<T = unknown>(column: string): Promise<T | null>;
  first<T = Record<string, unknown>>(): Promise<T | null>;
  run<T = Record<string, unknown>>(): Promise<D1Result<T>>;
  all<T = Record<string, unknown>>(): Promise<D1Result<T>>;
  raw<T = unknown[]>(options: { columnNames: true }): Promise<[string[], ...T[]]>;
  raw<T = unknown[]>(options?: { columnNames?: false }): Promise<T[]>;
}

export declare abstract class D1DatabaseSession {
  prepare(sql: string): D1PreparedStatement;
  batch<T = unknown>(statements: D1PreparedStatement[]): Promise<D1Result<T>[]>;
  getBookmark(): D1SessionBookmark | null;
}

export declare abstract class D1Database {
  prepare(sql: string): D1PreparedStatement;
  batch<T = unknown>(statements: D1PreparedStatement[]): Promise<D1Result<T>[]>;
  exec(text: string): Promise<D1ExecResult>;
  withSession(start?: D1SessionBookmark | D1SessionConstraint): D1DatabaseSession;
  /** @deprecated Not supported, as in today's D1: always rejects. */
  dump(): Promise<ArrayBuffer>;
}

/** Every error of this client but wrong arguments of `connect`. */
export declare class D1Error extends Error {
  cause: Error;
  /** "refused": correct it; "not done": surely not executed; "unknown": executed or not. */
  outcome: "refused" | "not done" | "unknown";
}
