import * as client from "./client.js";

export { FairleadError } from "./errors.js";

/**
 * @typedef {import("./client.js").Options} Options
 * @typedef {import("./client.js").CallOptions} CallOptions
 * @typedef {import("./client.js").State} State
 * @typedef {import("./client.js").Message} Message
 * @typedef {import("./client.js").Off} Off
 * @typedef {import("./client.js").AnySchema} AnySchema
 * @typedef {import("./errors.js").Code} Code
 * @typedef {import("./position.js").Position} Position
 * @typedef {import("./subscription.js").Members} Members
 * @typedef {import("./subscription.js").TopicOptions} TopicOptions
 * @typedef {import("./topic.js").PublishOptions} PublishOptions
 */
/**
 * @template {AnySchema} [S=AnySchema]
 * @typedef {import("./client.js").Client<S>} Client
 */
/**
 * @template {Record<string, any>} [E=Record<string, any>]
 * @typedef {import("./topic.js").Topic<E>} Topic
 */
/** @typedef {import("./group.js").Group} Group */

/**
 * A client for the gateway at `url`: `ws:`, `wss:`, `http:`, `https:`, or relative to the page. It opens its
 * connection on first use. Throws TypeError where `url` is none.
 * @template {AnySchema} [S=AnySchema]
 * @param {string} [url] default: `/ws` where the page came from
 * @param {Options} [o]
 * @returns {Client<S>}
 */
export function connect(url = "/ws", o) {
  const { href } = new URL(url, globalThis.location?.href);
  return new client.Client(href.replace(/^http/, "ws"), o);
}
