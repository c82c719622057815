import { retrying } from "../../../clients/js/src/retry.js"; // in an app: "@fairlead/client/retry"

/**
 * Logs in. Where a limit refuses, `onWait` hears for how many milliseconds it waits before it tries again by itself; a wrong
 * password, and a wait of more than a minute, reject.
 */
export const login = (fl, account, password, { signal, onWait } = {}) =>
  retrying(() => fl.call("auth.login", { account, password }, { signal }), { signal, onWait: (_, ms) => onWait?.(ms) });
