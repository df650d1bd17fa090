"""Mesh read-back, WebRTC probe calls, media time stamps, quality."""
