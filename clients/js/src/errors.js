/**
 * @typedef {"UNAUTHENTICATED" | "PERMISSION_DENIED" | "INVALID_ARGUMENT" | "NOT_FOUND" | "ALREADY_EXISTS" |
 *   "FAILED_PRECONDITION" | "ABORTED" | "RESOURCE_EXHAUSTED" | "DEADLINE_EXCEEDED" | "CANCELLED" |
 *   "UNIMPLEMENTED" | "UNAVAILABLE" | "INTERNAL"} Code
 */

/**
 * @typedef {object} ErrorFields
 * @property {number | null} [retryAfter]
 * @property {"none" | "unknown"} [outcome]
 * @property {string} [rule]
 * @property {any} [details]
 * @property {unknown} [cause]
 */

/** The one error this client rejects with and hands to listeners; `code` says what to do about it. */
export class FairleadError extends Error {
  /** @override */
  name = "FairleadError";
  /** @type {Code} */
  code;
  /** Milliseconds after which a retry may succeed; `null` where it never can. @type {number | null | undefined} */
  retryAfter;
  /** What became of the request: `none` = certainly nothing, `unknown` = it may have been done. @type {"none" | "unknown" | undefined} */
  outcome;
  /** The rule that refused, where one did. @type {string | undefined} */
  rule;
  /** @type {any} */
  details;

  /**
   * @param {Code} code
   * @param {string} message
   * @param {ErrorFields} [fields]
   */
  constructor(code, message, { cause, ...fields } = {}) {
    super(message, { cause });
    this.code = code;
    Object.assign(this, fields);
  }
}

/**
 * The error of a frame (`{"code":…,"message":…,"retryAfterMs":…,"details":{…}}`).
 * @param {any} error
 */
export function fromWire({ code = "INTERNAL", message, retryAfterMs, details }) {
  return new FairleadError(code, message, { retryAfter: retryAfterMs, outcome: details?.outcome, rule: details?.rule, details });
}

/**
 * Whether the same request may succeed later without a change.
 * @param {{ code?: string, retryAfter?: number | null }} error
 */
export function isTransient({ code, retryAfter }) {
  return retryAfter !== null &&
    ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "ABORTED", "DEADLINE_EXCEEDED"].includes(/** @type {string} */ (code));
}
