#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""report.py RESULTS DOC: DOC.md and DOC.json from what tests/gpu/check.sh has left. What was not measured says so."""
import glob
import json
import os
import sys

results, doc = sys.argv[1:]
# goals on an H100 or H200: name, key, unit, goal, is less better
GOALS = [("a forward, bf16", "forward_ms", "ms", 210, True), ("decode of 12 frames", "decode_ms", "ms", 80, True),
         ("first block, picture and text included", "first_block_s", "s", 1.0, True)]


def read(name, parse=json.loads):
    try:
        with open(os.path.join(results, name)) as f:
            return parse(f.read())
    except (OSError, ValueError):
        return None


def read_begun(text):
    """An object whose writer may have been ended: all of it that can be read."""
    cut = len(text)
    while cut > 0:
        for end in "", "}", "}}", "}}}":
            try:
                return json.loads(text[:cut] + end)
            except ValueError:
                pass
        cut = text.rfind(', "', 0, cut)
    raise ValueError("nothing was written")


def number(value, unit=""):
    return "not measured" if value is None else f"{value:.4g} {unit}".strip()


def verdicts():
    """name -> "passed", "failed (N)", or why it was not run"""
    found = {}
    for path in sorted(glob.glob(results + "/*.rc")) + sorted(glob.glob(results + "/*.skip")):
        name, text = os.path.basename(path).rsplit(".", 1)[0], open(path).read().strip()
        took = f", {read(name + '.took', str.strip)}"
        found[name] = f"not measured: {text}" if path.endswith(".skip") else ("passed" if text == "0" else f"**failed** ({text})") + took
    return found


def broken(stream, skipped):
    """What must hold on any device, whatever its speed; of a stream that was not to be measured, of what there is."""
    if not stream:
        return [] if skipped else ["stream: no result"]
    wrong = [] if skipped or "copy_gb_s" in stream else ["stream: it did not come to its end"]
    if stream.get("other_bits"):
        wrong.append(f"{stream['other_bits']} of {stream['repeats']} repeats have other bits")
    if stream.get("allocations_in_blocks"):
        wrong.append(f"{stream['allocations_in_blocks']} allocations after the first block")
    if stream.get("waits_a_block", 0) > 1:
        wrong.append(f"the host waits {stream['waits_a_block']} times in a block before its frames")
    for what in "workspace", "scratch":
        if stream.get(what + "_used", 0) > stream.get(what + "_planned", 0):
            wrong.append(f"{what}: {stream[what + '_used']} bytes used, {stream[what + '_planned']} planned")
    return wrong


def op_rows(stream, paper):
    floor = {}
    for op in (paper or {}).get("ops", []):
        floor[op["op"]] = floor.get(op["op"], 0) + op.get("floor_ms", 0)
    for name, o in sorted(stream.get("forward", {}).items(), key=lambda i: -i[1]["ms"]):
        least = floor.get(name)
        yield f"| {name} | {o['calls']} | {o['ms']:.3f} | " + (f"{least:.3f} | {100 * least / o['ms']:.0f} % |" if least and o["ms"] else "| |")


def main():
    card, peer, paper = read("card.txt", str.strip), read("peer.json"), read("paper.out")
    stream, exact = read("stream-bf16.out", read_begun), read("stream-f32.out", read_begun)
    published = stream and stream["width"] == 704 and stream["layers"] == 40
    all_verdicts = verdicts()
    lines = [f"# {card}", "", "Written by `make check-gpu` (`tests/gpu/check.sh`).", "", "## Is it right", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in all_verdicts.items()]
    lines += ["", "## The published sizes, random weights" if published or not stream else "## Tiny sizes, random weights: the figures mean nothing", ""]
    if stream:
        lines += ["| | measured | goal |", "|---|---|---|"]
        lines += [f"| {name} | {number(stream.get(key), unit)} | {'<=' if less else '>='} {goal} {unit} |" for name, key, unit, goal, less in GOALS]
        ratio = stream["fps"] / peer["fps"] if peer and "fps" in stream else None
        apart = 100 * (stream["measured"] / stream["planned"] - 1) if stream.get("measured", 0) > 0 else None
        speed = stream["copy_gb_s"] / stream["weights_gb_s"] if stream.get("weights_gb_s") and "copy_gb_s" in stream else None
        planned = stream["planned"] / 1e9 if "planned" in stream else None
        lines += [f"| frames a second, sequential, end to end | {number(stream.get('fps'))} | |",
                  f"| PyTorch's frames a second on the same shapes | {number(peer and peer['fps'])} | |",
                  f"| ours to PyTorch's | {number(ratio)} | >= 1.5 |",
                  f"| the host's time for a forward's launches | {number(stream.get('submit_ms'), 'ms')} | |",
                  f"| waits of the host in a block, before the frames' own | {number(stream.get('waits_a_block'))} | 1 |",
                  f"| allocations in blocks | {number(stream.get('allocations_in_blocks'))} | 0 |",
                  f"| memory planned | {number(planned, 'GB')} | |",
                  f"| measured, to planned | {number(apart, '%')} | within 2 % |",
                  f"| weights from host memory | {number(stream.get('weights_gb_s'), 'GB/s')} | |",
                  f"| their time to that of a plain copy | {number(speed)} | <= 1.3 |",
                  f"| repeats with other bits | {number(stream.get('other_bits'))} of {number(stream.get('repeats'))} | 0 |",
                  f"| a forward in f32 | {number(exact and exact.get('forward_ms'), 'ms')} | |"]
        lines += ["", "One forward by operation, with a wait behind each:", "", "| operation | calls | ms | least ms | of it |", "|---|---|---|---|---|"]
        lines += op_rows(stream, paper if published else None)
    else:
        lines += ["not measured"]
    wrong = broken(stream, os.path.exists(results + "/stream-bf16.skip"))
    lines += [""] + [f"**Wrong:** {text}" for text in wrong] if wrong else []
    os.makedirs(os.path.dirname(doc), exist_ok=True)
    with open(doc + ".md", "w") as f:
        f.write("\n".join(lines) + "\n")
    with open(doc + ".json", "w") as f:
        json.dump({"card": card, "checks": all_verdicts, "stream": stream, "stream_f32": exact, "peer": peer, "paper": paper}, f, indent=1)
        f.write("\n")
    for text in wrong:
        print("WRONG:", text)
    return 1 if wrong else 0


sys.exit(main())
