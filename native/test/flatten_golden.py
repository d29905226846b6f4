"""Golden vectors as bytes that C reads: ``python flatten_golden.py rabitq_v1.json golden.bin``.

Each case is a run of blocks: model, X, Q, codes, factors, rotated (empty but for l2), then terms, z, dot,
estimate and error of both queries. A block is a u32 length, a u32 zero, and its bytes padded to 8.
"""

import base64
import json
import struct
import sys
from pathlib import Path

golden = json.loads(Path(sys.argv[1]).read_text())
out = bytearray()
for case in golden["cases"]:
    inputs = golden["inputs"][str(case["dim"])]
    blocks = {"model": case["model"], **inputs, "rotated": "", **case["answers"]}
    names = ["model", "X", "Q", "codes", "factors", "rotated"]
    names += [f"query{i}.{name}" for i in (0, 1) for name in ("terms", "z", "dot", "estimate", "error")]
    if sorted(blocks) != sorted(names):
        sys.exit(f"expected the blocks {names}, not {list(blocks)}")
    for name in names:
        data = base64.b64decode(blocks[name])
        out += struct.pack("<II", len(data), 0) + data + bytes(-len(data) % 8)
Path(sys.argv[2]).write_bytes(out)
