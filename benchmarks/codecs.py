"""Recall at equal bytes: bqcore's codecs, other libraries' quantizers and the Gaussian bound on several sets.

Writes ``codecs_<set>.json`` and ``.png`` into a folder and, with ``--docs``, the tables of docs/codecs.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bqcore.cli.eval_ import describe
from bqcore.cli.picture import save_codecs
from bqcore.codec_eval import BOUND, CodecResult, check_specs, evaluate
from bqcore.datasets import Dataset, read

SETS = ("A_minilm_wordnet", "B_sgns200", "D_sift", "B_tok384", "D_patch400")
OURS = (
    "rabitq(bits=1)",
    "rabitq(bits=1, centroids=256)",
    "rabitq(bits=2)",
    "rabitq(bits=4)",
    "saq(bits=1)",
    "saq(bits=1, centroids=256)",
    "saq(bits=2)",
    "saq(bits=2, centroids=256)",
)
#: Peers whose size follows from the number of dimensions alone.
PEERS = (
    "faiss(RaBitQ)",
    "faiss(IVF256,RaBitQ)",
    "faiss(RaBitQ2)",
    "faiss(RaBitQ4)",
    "rabitqlib(bits=1)",
    "rabitqlib(bits=1, centroids=256)",
    "rabitqlib(bits=2)",
    "rabitqlib(bits=4)",
    "scann(dims_per_block=4)",
    "scann(dims_per_block=4, threshold=0.2)",
    "scann(dims_per_block=2)",
    "turbovec(bits=2)",
    "turbovec(bits=4)",
)
BEGIN, END = "<!-- tables: make eval -->", "<!-- end of tables -->"


def product_quantizers(dim: int) -> Iterator[str]:
    """PQ of one and two bits per dimension, and the next size that also pays for 8 bytes of factors."""
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    one = next(m for m in divisors if m >= dim / 8)
    for size in (one, next(m for m in divisors if m >= dim / 8 + 8)):
        yield f"faiss(PQ{size}x8)"
        yield f"faiss(OPQ{size},PQ{size}x8)"
    fast = next(m for m in divisors if m >= dim / 4)
    yield f"faiss(PQ{fast}x4fs)"
    yield f"faiss(PQ{fast}x8)"


def measure(
    data: Dataset, specs: list[str], seeds: range, k: int
) -> tuple[list[CodecResult], dict[str, str]]:
    """Measure one spec after the other; one that fails is a reason, not the end."""

    def say(text: str) -> None:
        print(f"{data.name}: {text}", file=sys.stderr, flush=True)

    results = []
    skipped = check_specs(specs, data)
    for spec in specs:
        if spec in skipped:
            say(f"skipped {spec}: {skipped[spec]}")
            continue
        try:
            results += evaluate(data, [spec], seeds=seeds, k=k, bound=False, progress=say)
        except (RuntimeError, ValueError) as error:
            skipped[spec] = str(error).removeprefix(f"{spec}: ")
    bounds = [f"{BOUND}(bytes={one:g})" for one in sorted({one.bytes_per_vector for one in results})]
    results += evaluate(data, bounds, seeds=seeds, k=k, bound=False, progress=say)
    return results, skipped


def markdown(document: dict[str, Any]) -> str:
    """Lay out one set's rows, by bytes, the best of equal bytes first."""
    k, rows = document["k"], document["results"]
    at_k, in_more = f"recall_at_{k}", f"recall_{k}_in_{10 * k}"
    bound = {row["bytes_per_vector"]: row[at_k] for row in rows if row["kind"] == "bound"}
    lines = [
        f"### {document['title']}",
        "",
        f"| codec | bytes | recall@{k} | {k} in {10 * k} | Gaussian bound | encode, us | train, s |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = [row for row in rows if row["kind"] != "bound"]
    for row in sorted(measured, key=lambda row: (row["bytes_per_vector"], -row[at_k])):
        name = f"**{row['codec']}**" if row["kind"] == "codec" else row["codec"]
        encode = row["encode_us_per_vector"]
        cells = (
            name,
            f"{row['bytes_per_vector']:g}",
            f"{row[at_k]:.3f}",
            f"{row[in_more]:.3f}",
            f"{bound[row['bytes_per_vector']]:.3f}",
            "-" if encode is None else f"{encode:.2f}",
            f"{row['train_s']:.1f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    if document["skipped"]:
        lines += ["", "Not measured:", ""]
        lines += [f"- {spec}: {reason}" for spec, reason in document["skipped"].items()]
    return "\n".join(lines)


def write_tables(docs: Path, documents: list[dict[str, Any]]) -> None:
    """Replace what stands between the two marks."""
    text = docs.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{docs}: expected the lines {BEGIN} and {END}")
    versions = sorted({row["version"] for one in documents for row in one["results"] if row["version"]})
    seeds = len(documents[0]["results"][0]["seeds"])
    head = f"Means over {seeds} seed{'s' if seeds > 1 else ''}. {', '.join(versions)}."
    tables = "\n\n".join([head, *map(markdown, documents)])
    docs.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rows", type=int, help="use the first vectors only")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--docs", type=Path, help="Markdown file whose tables are replaced")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    documents = []
    for name in options.sets:
        try:
            data = read(options.data / name, rows=options.rows)
            specs = list(dict.fromkeys([*OURS, *product_quantizers(data.dim), *PEERS]))
            results, skipped = measure(data, specs, range(options.seeds), options.k)
        except (OSError, ValueError) as error:
            print(f"codecs: {error}", file=sys.stderr)
            return 1
        document = {
            "title": describe(data),
            "k": options.k,
            "results": [one.as_dict() for one in results],
            "skipped": skipped,
        }
        documents.append(document)
        path = options.output / f"codecs_{name}.json"
        path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        save_codecs(results, path.with_suffix(".png"), describe(data))
        print(markdown(document), end="\n\n", flush=True)
    if options.docs is not None:
        write_tables(options.docs, documents)
    return 0


if __name__ == "__main__":
    sys.exit(main())
