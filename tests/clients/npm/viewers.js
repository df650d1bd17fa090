// Chromium as the receiving end of calls, told what to do by lines of JSON on stdin: {"name", "do": "answer", "sdp"} or
// {"name", "do": "look"}; each is answered by a line {"name", "do", ...}. Usage: node viewers.js '{"browser": PATH,
// "server": {urls, username, credential}}'. The end of stdin is its end.
"use strict";

const path = require("node:path");
const readline = require("node:readline");
const { pathToFileURL } = require("node:url");
const { launch } = require("./browser");

async function main({ browser: executablePath, server }) {
  const browser = await launch(executablePath, "--autoplay-policy=no-user-gesture-required");
  const pages = new Map();

  async function obey({ name, do: word, sdp }) {
    if (word === "answer") {
      // A window of its own: a page in the background of another draws nothing.
      const page = await (await browser.newContext()).newPage();
      pages.set(name, page);
      await page.goto(pathToFileURL(path.join(__dirname, "viewer.html")).href);
      return { sdp: await page.evaluate(([iceServer, offer]) => answer(iceServer, offer), [server, sdp]) };
    }
    return { seen: await pages.get(name).evaluate(() => look()) };
  }

  for await (const line of readline.createInterface({ input: process.stdin })) {
    const asked = JSON.parse(line);
    obey(asked)
      .catch((error) => ({ error: String(error) }))
      .then((told) => console.log(JSON.stringify({ name: asked.name, do: asked.do, ...told })));
  }
  await browser.close();
  process.exit(0);
}

main(JSON.parse(process.argv[2]));
