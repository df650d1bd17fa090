"""The story of `make demo`: ten steps on a lab of eight, each run by the real command line and checked for truth."""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median

from commcli.fleet.loader import load
from commcli.lab import compliance, faults, incident
from commcli.lab.demo import Step
from commcli.lab.stage import Document, Stage, require

FROM, TO = "ae", "kr"  # Dubai to Seoul: 396 ms straight, 203 ms by Singapore
EDGES = ("ae-1", "kr-1")
NODES = 8
CALL_S, LONG_CALL_S = 8, 14
#: A machine that is still too busy after this much of the story will not become idle for it.
RETRY_UNTIL_S = 60.0
#: How far a measured RTT may lie from the one that was set: two busy cores run eight relays and their callers.
MESH_TOLERANCE_MS, MESH_TOLERANCE_SHARE = 15.0, 0.1
MESH_PATIENCE_S = 45.0
#: Packets: a whole window of 10 s holds 50. With fewer, one lost packet looks like a bad path.
WHOLE_WINDOW = 45
#: Three probes 60 ms apart are missed and a round trip passes before the ingress knows; the rest is reserve.
GAP_LIMIT_MS = 2500.0
PLAYBOOK = Path(__file__).parents[2] / "playbooks/relay.yml"


def lab_up(stage: Stage) -> Document:
    """Eight nodes in eight regions start on loopback; asking twice changes nothing."""
    words = (
        "lab",
        "up",
        "--nodes",
        str(NODES),
        "--network",
        stage.network,
        "--folder",
        str(stage.folder.path),
    )
    shown = stage.perform(*words)
    require(len(shown["nodes"]) == NODES, f"{len(shown['nodes'])} nodes are up, not {NODES}")
    return {"nodes": len(shown["nodes"])}


def provision(stage: Stage) -> Document:
    """The playbook installs the relays over SSH; a second run has nothing to do."""
    shown = PLAYBOOK.relative_to(Path.cwd()) if PLAYBOOK.is_relative_to(Path.cwd()) else PLAYBOOK
    words = ("play", "run", str(shown), "--yes")
    first = stage.perform(*words)
    require(_changes(first) > 0, "the first run of the playbook changed nothing")
    again = stage.perform(*words)
    require(
        _changes(again) == 0, f"the second run of the playbook changed {_changes(again)} things, not none"
    )
    return {"changed_first": _changes(first), "changed_again": _changes(again)}


def _changes(document: Document) -> int:
    """How many steps changed something, over all nodes; every node must have come to its end."""
    undone = [
        f"{row['node']}: {row['state']}: {row['reason']}"
        for row in document["nodes"]
        if row["state"] != "done"
    ]
    require(not undone and len(document["nodes"]) == NODES, f"not every node is done: {'; '.join(undone)}")
    return sum(row["changed"] for row in document["nodes"])


def health(stage: Stage) -> Document:
    """No node fails, and every row says why."""
    shown = stage.perform("health", "check")
    require(len(shown["nodes"]) == NODES, f"health looked at {len(shown['nodes'])} nodes, not {NODES}")
    require(all(row["findings"] for row in shown["nodes"]), "a node has no finding at all")
    return {"verdict": shown["verdict"], **shown["counts"]}


def measure(stage: Stage) -> Document:
    """The relays' own mesh comes back, and agrees with the WAN that was set."""
    stage.command("probe", "mesh")
    shown = _whole_mesh(stage)
    stage.draw(shown)
    wan = faults.current(stage.folder, stage.record)
    off = [
        (abs(pair["rtt_ms"] - set_ms), pair, set_ms)
        for pair in shown["pairs"]
        for set_ms in [wan[frozenset({pair["from"], pair["to"]})].rtt_ms]
    ]
    for error_ms, pair, set_ms in off:
        require(
            error_ms <= MESH_TOLERANCE_MS + MESH_TOLERANCE_SHARE * set_ms,
            f"{pair['from']} to {pair['to']}: measured {pair['rtt_ms']:.1f} ms, but {set_ms:g} ms were set",
        )
    middle_ms = median(error_ms for error_ms, _, _ in off)
    stage.say(
        f"{len(off)} directed pairs agree with the WAN that was set: half of them within {middle_ms:.1f} ms"
    )
    return {"pairs": len(off), "median_error_ms": round(middle_ms, 2)}


def _whole_mesh(stage: Stage) -> Document:
    """Read the mesh back until every pair has a whole window of packets (they close every 10 s)."""
    deadline = time.monotonic() + MESH_PATIENCE_S
    while True:
        shown = stage.run("probe", "mesh")
        measured = [
            pair for pair in shown["pairs"] if pair["rtt_ms"] is not None and pair["samples"] >= WHOLE_WINDOW
        ]
        if len(measured) == NODES * (NODES - 1):
            return shown
        require(
            time.monotonic() < deadline,
            f"only {len(measured)} of {NODES * (NODES - 1)} pairs are measured after {MESH_PATIENCE_S:g} s",
        )
        time.sleep(1.5)


def call_before(stage: Stage) -> Document:
    """A call straight over the bad direct path."""
    call = _call(stage, "--direct")
    for name, path in (("there", EDGES), ("back", EDGES[::-1])):
        direction = call["directions"][name]
        require(
            direction["straight"] and tuple(direction["path"]) == path,
            f"{name}: the call did not go straight",
        )
    stage.seen["before"] = call
    return _figures(call)


def publish(stage: Stage) -> Document:
    """What would change and why; then signed, canary first, and confirmed by every relay."""
    change = stage.seen["planned"] = _change(stage.perform("route", "plan"))
    path = change["after"]
    require(len(path) == 3, f"the plan sends {FROM} to {TO} by {' -> '.join(path)}, not by one relay")
    return _confirmed(stage, _apply(stage, "the lab's story"))


def call_after(stage: Stage) -> Document:
    """The same call by the overlay; the gain beside what it was; the hops as the relays counted them."""
    before, call = stage.seen["before"], _call(stage)
    for name in ("there", "back"):
        direction = call["directions"][name]
        path = direction["path"] or []
        require(
            len(path) == 3 and not direction["straight"], f"{name}: the call went {path}, not by one relay"
        )
        counted = direction["paths"][0]["counted"]
        require(all(counted.values()), f"{name}: not every relay on the path counted packets: {counted}")
    stage.seen["after"] = call
    stage.compare(before, call)
    gain_ms = before["rtt_ms"]["p50"] - call["rtt_ms"]["p50"]
    require(gain_ms > 100, f"the overlay gained only {gain_ms:.0f} ms")
    require(
        call["mos"] > before["mos"], f"MOS did not rise: {before['mos']:.2f} before, {call['mos']:.2f} after"
    )
    return {
        **_figures(call),
        "gain_rtt_ms": round(gain_ms),
        "gain_mos": round(call["mos"] - before["mos"], 2),
    }


def failure(stage: Stage) -> Document:
    """The relay in the middle loses its power during a call; the ingress switches by itself."""
    words = ("probe", "call", FROM, TO, "--seconds", str(LONG_CALL_S))
    began = time.time()
    stage.command(*words)
    running = stage.begin(*words)
    relay = incident.await_transit(stage.folder, stage.record, EDGES, running, since_unix=began, timeout_s=30)
    killed_unix = time.time()
    killed = stage.run("lab", "kill", relay, "--folder", str(stage.folder.path))
    stage.say(f"the call is on; {relay}, which it crosses, just lost its power")
    stage.draw(killed)
    call = running.finish((0, 1, 4), 60)
    stage.draw(call)
    found = incident.switches(stage.folder, EDGES, since_unix=killed_unix)
    for switch in found:
        stage.say(f"{switch.node} switched by itself: {switch.before} -> {switch.after} ({switch.reason})")
    require(EDGES[0] in {switch.node for switch in found}, f"{EDGES[0]} did not switch")
    gap = _require_survival(call, relay)
    stage.say(f"longest media gap: {gap['ms']:.0f} ms of {gap['medium']}")
    stage.perform("lab", "start", relay, "--folder", str(stage.folder.path))
    table = incident.ask_patiently(stage.folder, relay, "status", timeout_s=20)["table"]
    require(table["serial"], f"{relay} came back without its table")
    stage.say(f"{relay} came back by itself, with table {table['serial']} from its own disk")
    return {"killed": relay, "longest_gap_ms": round(gap["ms"]), "switches": len(found)}


def _require_survival(call: Document, relay: str) -> Document:
    """The call went on past the dead relay; its longest gap."""
    require(call["connected"], "the call did not connect")
    for name in ("there", "back"):
        used = [path["path"] for path in call["directions"][name]["paths"]]
        others = [path for path in used if relay not in path]
        require(others, f"{name}: no path without {relay} carried packets, only {used}")
    gap: Document | None = call["longest_gap"]
    require(gap, "the longest media gap was not measured")
    assert gap is not None
    require(gap["ms"] < GAP_LIMIT_MS, f"the media stood still for {gap['ms']:.0f} ms")
    return gap


def obey(stage: Stage) -> Document:
    """A zone forbids the winning country: the plan obeys and says what that costs; nobody takes a lawless table."""
    relay = stage.seen["planned"]["after"][1]
    country = str(load(stage.folder.inventory).nodes[relay].country)
    zone = compliance.forbid(stage.folder, (FROM, TO), country)
    stage.say(f"zone {zone.id}: {zone.reason}")
    change = _change(stage.perform("route", "plan"))
    path = tuple(change["after"])
    require(relay not in path, f"the plan still goes {' -> '.join(path)}")
    require(change["rtt_before_ms"] and change["rtt_after_ms"], "the plan does not say what it rests on")
    costs_ms = change["rtt_after_ms"] - change["rtt_before_ms"]
    require(costs_ms > 0, f"the way by {country} won, and yet leaving it gains {-costs_ms:.0f} ms")
    stage.say(f"{FROM} to {TO} now goes {' -> '.join(path)}: the rule costs {costs_ms:.0f} ms of RTT")
    applied = _apply(stage, f"the lab's story: {zone.id}")
    confirmed = _confirmed(stage, applied)
    stage.say("Back to the table from before the rule?")
    stage.command("route", "rollback", "--yes")
    refused = stage.run("route", "rollback", "--yes", codes=(5,))
    stage.say(f"No: {refused['error']['messages'][0]}")
    forged = compliance.forge(stage.folder, (EDGES[0], relay, EDGES[1]))
    reason = compliance.push(stage.folder, EDGES[0], forged)
    require("zone" in reason, f"the relay took a signed table that violates {zone.id} (it said {reason!r})")
    stage.say(f"And a properly signed table by way of {relay}, pushed past the planner? {reason}")
    _confirmed(stage, applied)
    return {"path": list(path), "costs_ms": round(costs_ms), "refused": reason, **confirmed}


def _call(stage: Stage, *options: str) -> Document:
    """One call, drawn. A starved probe host says nothing about the network: then once more."""
    words = ("probe", "call", FROM, TO, "--seconds", str(CALL_S), *options)
    call = stage.perform(*words, codes=(0, 1, 4))
    if call["verdict"] == "invalid" and stage.elapsed_s < RETRY_UNTIL_S:
        stage.say(f"this machine was too busy ({call['invalid_reason']}); the call is made once more")
        call = stage.perform(*words, codes=(0, 1, 4))
    require(call["connected"], f"the call did not connect: {'; '.join(call['reasons'])}")
    require(call["rtt_ms"] and call["mos"], "RTT or MOS of the call was not measured")
    return call


def _figures(call: Document) -> Document:
    return {
        "setup_ms": call["setup_ms"] and round(call["setup_ms"]),
        "rtt_ms": round(call["rtt_ms"]["p50"]),
        "mos": round(call["mos"], 2),
        "path": call["directions"]["there"]["path"],
        "valid": call["valid"],
    }


def _change(plan: Document) -> Document:
    """The row of a plan that changes the way from one of the story's edges to the other."""
    found: Document | None = next(
        (row for row in plan["changes"] if (row["from"], row["to"]) == EDGES and row["after"]), None
    )
    require(found, f"the plan changes nothing from {EDGES[0]} to {EDGES[1]}")
    assert found is not None
    return found


def _apply(stage: Stage, reason: str) -> Document:
    """Publish what was just planned; the plan is not drawn a second time."""
    words = ("route", "apply", "--yes", "--reason", reason)
    stage.command(*words)
    applied = stage.run(*words)
    require(applied["result"] == "published", f"the table was not published but {applied['result']}")
    done = [row["node"] for row in applied["nodes"] if row["state"] == "done"]
    waves = ", ".join(done[1:])
    stage.say(f"table {applied['serial']} signed and published: canary {applied['canary']}, then {waves}")
    return applied


def _confirmed(stage: Stage, applied: Document) -> Document:
    """Every relay itself says that it has loaded the serial that was published."""
    serial = applied["serial"]
    status = stage.run("relay", "status")
    loaded = {row["node"]: row["answer"]["table"]["serial"] for row in status["nodes"]}
    wrong = sorted(node for node, has in loaded.items() if has != serial)
    require(len(loaded) == NODES and not wrong, f"serial {serial} is not loaded on {', '.join(wrong)}")
    stage.say(f"all {NODES} relays say that they have loaded serial {serial}")
    return {"serial": serial}


STEPS = (
    Step("lab up", lab_up),
    Step("provision", provision),
    Step("health", health),
    Step("measure", measure),
    Step("call before", call_before),
    Step("decide and publish", publish),
    Step("call after", call_after),
    Step("failure", failure),
    Step("compliance", obey),
)
