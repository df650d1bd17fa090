// Chromium as an unmodified TURN client. Usage: node chromium.js '{"browser": PATH, "spki": HASH, "seconds": N,
// "calls": {NAME: {urls, username, credential}}}'; prints a JSON line a call: {"name", "first", "second"} or {"name", "error"}.
"use strict";

const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { launch } = require("./browser");

async function main({ browser: executablePath, spki, seconds, calls }) {
  const browser = await launch(
    executablePath,
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    `--ignore-certificate-errors-spki-list=${spki}`,
  );
  // Whoever started us is gone: so is the browser.
  process.stdin.on("end", () => process.exit(1)).resume();
  try {
    await Promise.all(Object.entries(calls).map(async ([name, iceServer]) => {
      const page = await browser.newPage();
      await page.goto(pathToFileURL(path.join(__dirname, "call.html")).href);
      const told = await page
        .evaluate(([server, limit]) => call(server, limit), [iceServer, seconds])
        .catch((error) => ({ error: String(error) }));
      console.log(JSON.stringify({ name, ...told }));
    }));
  } finally {
    await browser.close();
  }
  process.exit(0);
}

main(JSON.parse(process.argv[2]));
