// Many requests of all kinds at once, in Node: load.mjs ORIGIN PLAN, where the plan is JSON, a list of
// {kind, http, address, connections, requests, certificate, authorization}.
//
// Each request has a path of its own: /api/v1/namespaces/KIND-N/configmaps. Prints a line of JSON for each connection:
// what it was, its port, how many requests were answered.
import fs from "node:fs";
import http2 from "node:http2";
import https from "node:https";

const origin = process.argv[2];
const plan = JSON.parse(process.argv[3]);
const ca = fs.readFileSync("ca.crt");
const files = new Map();
const file = (name) => files.get(name) ?? files.set(name, fs.readFileSync(name)).get(name);
const AT_ONCE = 8;

let number = 0;
const path = (kind) => `/api/v1/namespaces/${kind}-${(number += 1)}/configmaps`;

function options(what) {
  const own = what.certificate
    ? { cert: file(`${what.certificate}.crt`), key: file(`${what.certificate}.key`) }
    : {};
  return { ca, localAddress: what.address, ...own };
}

const headers = (what) => (what.authorization ? { authorization: what.authorization } : {});

function overHttp2(what) {
  return new Promise((resolve, reject) => {
    const client = http2.connect(origin, options(what));
    let [port, answered] = [0, 0];
    client.on("error", reject);
    client.on("connect", () => { port = client.socket.localPort; });
    client.on("close", () => resolve({ ...what, port, answered }));
    const next = () => {
      const stream = client.request({ ":path": path(what.kind), ...headers(what) });
      stream.on("error", reject);
      stream.on("response", () => { answered += 1; });
      stream.on("end", () => { answered < what.requests ? next() : client.close(); });
      stream.resume();
    };
    next();
  });
}

function overHttp1(what) {
  const agent = new https.Agent({ ...options(what), keepAlive: true, maxSockets: 1, maxCachedSessions: 0 });
  let [port, answered] = [0, 0];
  const one = () => new Promise((resolve, reject) => {
    const call = https.get(origin + path(what.kind), { agent, headers: headers(what) }, (answer) => {
      answer.on("end", () => { answered += 1; resolve(); });
      answer.resume();
    });
    call.on("socket", (socket) => socket.once("secureConnect", () => { port = socket.localPort; }));
    call.on("error", reject);
  });
  return (async () => {
    while (answered < what.requests) {
      await one();
    }
    agent.destroy();
    return { ...what, port, answered };
  })();
}

// Kinds are mixed: a connection of each in turn.
const left = plan.map((what) => ({ what, connections: what.connections }));
const queue = [];
while (left.some((entry) => entry.connections > 0)) {
  for (const entry of left.filter((entry) => entry.connections > 0)) {
    entry.connections -= 1;
    queue.push(entry.what);
  }
}
async function worker() {
  while (queue.length > 0) {
    const what = queue.shift();
    const { kind, http, address, port, answered } = await (what.http === 2 ? overHttp2(what) : overHttp1(what));
    console.log(JSON.stringify({ kind, http, address, port, answered }));
  }
}
await Promise.all(Array.from({ length: AT_ONCE }, worker));
