import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { measure } from "../scripts/size.js";

test("the core stays under 8 KiB gzipped", () => {
  const { files, gzipped } = measure();
  assert.ok(files.length > 10, "the whole core is measured");
  assert.ok(gzipped < 8192, `${gzipped} bytes`);
});

test("the lock file names no registry", () => {
  assert.doesNotMatch(readFileSync(new URL("../package-lock.json", import.meta.url), "utf8"), /"resolved"|https?:/);
});
