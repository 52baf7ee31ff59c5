// memphis-dev as it comes from npm, told by lines of JSON what to call: the other side of fix_sdk.py.
//
//     node memphis_js_peer.js FOLDER   FOLDER holds the node_modules with memphis-dev
//
// Requests and replies are those of memphis_py_peer.py; keyword arguments become one object, as the SDK takes them.
"use strict";

const { createRequire } = require("node:module");
const path = require("node:path");
const readline = require("node:readline");

const reply = process.stdout.write.bind(process.stdout);
process.stdout.write = process.stderr.write.bind(process.stderr); // the SDK logs to stdout

const sdk = createRequire(path.join(path.resolve(process.argv[2]), "package.json"))("memphis-dev");
const root = {
  createMemphisInstance: sdk.createMemphisInstance,
  MsgHeaders: () => new sdk.MsgHeaders(),
  retentionTypes: sdk.memphis.retentionTypes,
  storageTypes: sdk.memphis.storageTypes,
  Uint8Array,
  versions: () => process.versions,
};
const held = [root];

function hold(value) {
  held.push(value);
  return held.length - 1;
}

function isPlain(value) {
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

function encode(value) {
  if (value === undefined || value === null) return null;
  if (["boolean", "number", "string"].includes(typeof value)) return value;
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString("base64") };
  if (Array.isArray(value)) return value.map(encode);
  if (value instanceof Date) return value.toISOString();
  if (value instanceof Map) return encode(Object.fromEntries(value));
  if (isPlain(value)) return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, encode(item)]));
  return { $ref: hold(value), kind: value.constructor.name };
}

function decode(value) {
  if (Array.isArray(value)) return value.map(decode);
  if (value === null || typeof value !== "object") return value;
  if ("$ref" in value) return held[value.$ref].callback || held[value.$ref];
  if ("$bytes" in value) return Uint8Array.from(Buffer.from(value.$bytes, "base64"));
  if ("$bytearray" in value) return Buffer.from(value.$bytearray, "base64");
  if ("$name" in value) return value.$name.split(".").reduce((found, part) => found[part], root);
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, decode(item)]));
}

// A callback that notes its arguments.
function calls({ fails }) {
  const noted = { calls: [], waiting: [] };
  noted.callback = (...args) => {
    noted.calls.push(args);
    noted.waiting.splice(0).forEach((wake) => wake());
    if (fails) throw new Error("a callback that fails");
  };
  noted.wait = async (count, timeoutMs) => {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`${noted.calls.length} of ${count} calls came`)), timeoutMs);
    });
    try {
      while (noted.calls.length < count) await Promise.race([late, new Promise((wake) => noted.waiting.push(wake))]);
    } finally {
      clearTimeout(timer);
    }
    return noted.calls;
  };
  return noted;
}

async function serve(request) {
  if ("held" in request) return held.length;
  if ("forget" in request) return void held.splice(request.forget);
  if ("callback" in request) return hold(calls(request.callback));
  if ("wait" in request) return encode(await held[request.wait].wait(request.count, 1000 * request.timeout_s));
  const target = held[request.on];
  if ("get" in request) return encode(target[request.get]);
  const args = decode(request.args);
  if (Object.keys(request.kwargs).length) args.push(decode(request.kwargs));
  if (typeof target[request.call] !== "function") throw new TypeError(`${request.call} is not a function`);
  return encode(await target[request.call](...args));
}

(async () => {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    let answer;
    try {
      const value = await serve(JSON.parse(line));
      answer = { value: value === undefined ? null : value };
    } catch (error) {
      answer = { error: `${error.name}: ${error.message}` };
    }
    reply(JSON.stringify(answer) + "\n");
  }
  process.exit(0); // the SDK's timers would keep it alive
})();
