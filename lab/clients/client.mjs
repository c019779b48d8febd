// A client in Node (OpenSSL, HTTP/1.1 or 2): client.mjs URL [--http 1] [--tls 1.2] [--cert NAME] [--authorization TEXT] [--resume]
//
// Prints the status of each answer. With --resume it connects a second time with the session of the first.
import fs from "node:fs";
import http2 from "node:http2";
import https from "node:https";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    http: { type: "string", default: "2" },
    tls: { type: "string", default: "1.3" },
    cert: { type: "string" },
    authorization: { type: "string" },
    resume: { type: "boolean", default: false },
  },
});
const url = new URL(positionals[0]);
const version = `TLSv${values.tls}`;
const options = { ca: fs.readFileSync("ca.crt"), minVersion: version, maxVersion: version };
if (values.cert) {
  Object.assign(options, { cert: fs.readFileSync(`${values.cert}.crt`), key: fs.readFileSync(`${values.cert}.key`) });
}
const headers = values.authorization === undefined ? {} : { authorization: values.authorization };

// One request on a connection of its own; gives the session to resume, which comes after the handshake in TLS 1.3.
function request(session) {
  return new Promise((resolve, reject) => {
    let ticket = session;
    const remember = (socket) => socket.on("session", (fresh) => { ticket = fresh; });
    if (values.http === "2") {
      const client = http2.connect(url.origin, { ...options, session });
      client.on("error", reject);
      remember(client.socket);
      const stream = client.request({ ":path": url.pathname, ...headers });
      stream.on("response", (answer) => console.log(answer[":status"]));
      stream.on("error", reject);
      // Over when the connection is: the server itself ends one that came without a credential.
      stream.on("end", () => client.close());
      client.on("close", () => resolve(ticket));
      stream.resume();
    } else {
      const agent = new https.Agent({ ...options, session, maxCachedSessions: 0 });
      const call = https.request(url, { agent, headers }, (answer) => {
        console.log(answer.statusCode);
        answer.on("end", () => { agent.destroy(); resolve(ticket); });
        answer.resume();
      });
      call.on("socket", remember);
      call.on("error", reject);
      call.end();
    }
  });
}

const session = await request(undefined);
if (values.resume) {
  await request(session);
}
