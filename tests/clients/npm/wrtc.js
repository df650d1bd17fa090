// @roamhq/wrtc (libwebrtc for Node) as an unmodified TURN client: a relay-only call with a data channel, audio and video.
// Usage: node wrtc.js '{"seconds": N, "calls": {NAME: {urls, username, credential}}}'; prints a JSON line a call:
// {"name", "first", "second"} or {"name", "error"}, the second look at both peers when everything has grown.
"use strict";

const { RTCPeerConnection, nonstandard } = require("@roamhq/wrtc");
const { talk, tell } = require("./talk.js");

const WIDTH = 160;
const HEIGHT = 120;
const RATE = 48000;

async function side(iceServer, other) {
  const peer = new RTCPeerConnection({ iceServers: [iceServer], iceTransportPolicy: "relay" });
  const seen = { messages: 0, audio: 0, video: 0 };
  const [audio, video] = [new nonstandard.RTCAudioSource(), new nonstandard.RTCVideoSource()];
  peer.addTrack(audio.createTrack());
  peer.addTrack(video.createTrack());
  const sinks = [];
  peer.ontrack = ({ track }) => {
    const sink = track.kind === "audio" ? new nonstandard.RTCAudioSink(track) : new nonstandard.RTCVideoSink(track);
    // A receiver that hears nothing still plays silence: only what is not silent was sent.
    sink.ondata = ({ samples }) => { if (samples.some((sample) => Math.abs(sample) > 500)) seen.audio += 1; };
    sink.onframe = () => { seen.video += 1; };
    sinks.push(sink);
  };
  const channel = peer.createDataChannel("data", { negotiated: true, id: 0 });
  channel.onmessage = () => { seen.messages += 1; };
  let frame = 0;
  const send = () => {
    frame += 1;
    if (channel.readyState === "open") channel.send(`message ${frame}`);
    const samples = Int16Array.from({ length: RATE / 100 }, (_, n) => 8000 * Math.sin((2 * Math.PI * 440 * n) / RATE));
    audio.onData({ samples, sampleRate: RATE, bitsPerSample: 16, channelCount: 1, numberOfFrames: RATE / 100 });
    const data = new Uint8ClampedArray(WIDTH * HEIGHT * 1.5).fill(frame & 255);
    if (frame % 4 === 0) video.onFrame({ width: WIDTH, height: HEIGHT, data });
  };
  const timer = setInterval(send, 10);
  return {
    peer,
    async look() {
      const rows = [...(await peer.getStats()).values()];
      const find = (id) => rows.find((row) => row.id === id) ?? {};
      const pair = find((rows.find((row) => row.type === "transport") ?? {}).selectedCandidatePairId);
      const [local, remote] = [find(pair.localCandidateId), find(pair.remoteCandidateId)];
      return {
        ...seen,
        local: local.candidateType ?? null,
        remote: remote.candidateType ?? null,
        relay_protocol: local.relayProtocol ?? null,
      };
    },
    close() {
      clearInterval(timer);
      sinks.forEach((sink) => sink.stop());
      peer.close();
    },
  };
}

async function connect(one, two) {
  for (const [from, to] of [[one, two], [two, one]]) {
    from.peer.onicecandidate = ({ candidate }) => candidate && to.peer.addIceCandidate(candidate);
  }
  await one.peer.setLocalDescription(await one.peer.createOffer());
  await two.peer.setRemoteDescription(one.peer.localDescription);
  await two.peer.setLocalDescription(await two.peer.createAnswer());
  await one.peer.setRemoteDescription(two.peer.localDescription);
}

tell((iceServer, configuration) => talk({ side: () => side(iceServer), connect, seconds: configuration.seconds }));
