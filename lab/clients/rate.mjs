// Requests without a credential at a steady rate, over connections that are kept: rate.mjs URL RATE SECONDS CONNECTIONS.
//
// Prints a line of JSON: how many were answered within the time, and the median and the 99th percentile of how long an
// answer took, in microseconds.
import fs from "node:fs";
import https from "node:https";

const [url, rate, seconds, connections] = [process.argv[2], ...process.argv.slice(3).map(Number)];
const agent = new https.Agent({ ca: fs.readFileSync("ca.crt"), keepAlive: true, maxSockets: connections });
const times = [];

function once() {
  const began = process.hrtime.bigint();
  return new Promise((resolve, reject) => {
    https.get(url, { agent }, (answer) => {
      answer.on("end", () => { times.push(Number(process.hrtime.bigint() - began) / 1000); resolve(); });
      answer.resume();
    }).on("error", reject);
  });
}

// The connections first, so that handshakes are not in what is measured.
await Promise.all(Array.from({ length: connections }, once));
times.length = 0;
const began = Date.now();
let sent = 0;
await new Promise((resolve, reject) => {
  const timer = setInterval(() => {
    const due = Math.min(((Date.now() - began) / 1000) * rate, rate * seconds);
    while (sent < due) {
      sent += 1;
      once().catch(reject);
    }
    if (Date.now() - began >= seconds * 1000) {
      clearInterval(timer);
      resolve();
    }
  }, 2);
});
const answered = times.length;
times.sort((a, b) => a - b);
const at = (part) => Math.round(times[Math.floor(times.length * part)] ?? 0);
console.log(JSON.stringify({ answered, seconds: (Date.now() - began) / 1000, median: at(0.5), late: at(0.99) }));
process.exit(0);
