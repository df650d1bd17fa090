// Chromium without a screen that talks to nobody but our relay.
"use strict";

const { chromium } = require("playwright-core");

// `executablePath` of the system's Chromium; `args` are options besides.
exports.launch = (executablePath, ...args) =>
  chromium.launch({
    executablePath,
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--allow-loopback-in-peer-connection",
      ...args,
    ],
  });
