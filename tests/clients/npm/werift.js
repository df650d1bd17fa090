// werift (WebRTC in TypeScript, no native code) as an unmodified TURN client: a relay-only call with a data channel and
// audio and video RTP. Usage and output as wrtc.js; "certificate" is the file that a TLS server is checked against.
"use strict";

const { readFileSync } = require("node:fs");
const { MediaStreamTrack, RTCPeerConnection, RtpHeader, RtpPacket } = require("werift");
const { talk, tell } = require("./talk.js");

function side(iceServer, ca) {
  const peer = new RTCPeerConnection({
    iceServers: [iceServer],
    iceTransportPolicy: "relay",
    iceUseIpv6: false,
    turnTlsOptions: { ca: readFileSync(ca) },
  });
  const seen = { messages: 0, audio: 0, video: 0 };
  const tracks = ["audio", "video"].map((kind) => new MediaStreamTrack({ kind }));
  tracks.forEach((track) => peer.addTrack(track));
  peer.onTrack.subscribe((track) => track.onReceiveRtp.subscribe(() => { seen[track.kind] += 1; }));
  const channel = peer.createDataChannel("data", { negotiated: true, id: 0 });
  channel.onMessage.subscribe(() => { seen.messages += 1; });
  let number = 0;
  const timer = setInterval(() => {
    number += 1;
    if (channel.readyState === "open") channel.send(`message ${number}`);
    tracks.forEach((track, index) => {
      const header = new RtpHeader({
        sequenceNumber: number & 0xffff, timestamp: number * 960, payloadType: 96 + index, ssrc: 1 + index,
      });
      track.writeRtp(new RtpPacket(header, Buffer.alloc(161 + 900 * index, number)));
    });
  }, 20);
  return {
    peer,
    async look() {
      const rows = [...(await peer.getStats()).values()];
      const kinds = (type) => rows.filter((row) => row.type === type).map((row) => row.candidateType);
      const [local, remote] = [kinds("local-candidate"), kinds("remote-candidate")];
      const all = (list) => (list.length > 0 && list.every((kind) => kind === "relay") ? "relay" : null);
      return { ...seen, local: all(local), remote: all(remote) };
    },
    close() {
      clearInterval(timer);
      peer.close();
    },
  };
}

async function connect(one, two) {
  // Both descriptions carry their candidates: werift gathers before setLocalDescription returns.
  await one.peer.setLocalDescription(await one.peer.createOffer());
  await two.peer.setRemoteDescription(one.peer.localDescription);
  await two.peer.setLocalDescription(await two.peer.createAnswer());
  await one.peer.setRemoteDescription(two.peer.localDescription);
}

tell((iceServer, { certificate, seconds }) => talk({ side: () => side(iceServer, certificate), connect, seconds }));
