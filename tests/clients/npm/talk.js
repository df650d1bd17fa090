// What the calls of every Node client have in common: two sides, connected, looked at until all counters have grown twice.
"use strict";

const COUNTERS = ["messages", "audio", "video"];
const pause = () => new Promise((resolve) => setTimeout(resolve, 50));

async function grown(sides, than, deadline) {
  for (;;) {
    const now = await Promise.all(sides.map((side) => side.look()));
    if (now.every((side, number) => COUNTERS.every((name) => side[name] > (than ? than[number][name] : 0)))) return now;
    if (Date.now() > deadline) throw new Error(`not everything arrives: ${JSON.stringify(now)}`);
    await pause();
  }
}

async function talk({ side, connect, seconds }) {
  const deadline = Date.now() + seconds * 1000;
  const sides = [await side(), await side()];
  try {
    await connect(...sides);
    const first = await grown(sides, null, deadline);
    return { first, second: await grown(sides, first, deadline) };
  } finally {
    sides.forEach((one) => one.close());
  }
}

// Makes the calls that the command line asks for, all at once, and ends with whoever started us.
async function tell(call) {
  const configuration = JSON.parse(process.argv[2]);
  process.stdin.on("end", () => process.exit(1)).resume();
  await Promise.all(Object.entries(configuration.calls).map(async ([name, iceServer]) => {
    const told = await call(iceServer, configuration).catch((error) => ({ error: String(error) }));
    console.log(JSON.stringify({ name, ...told }));
  }));
  process.exit(0);
}

module.exports = { talk, tell };
