"""Recall at equal bytes: bqcore's codecs, other libraries' quantizers and the Gaussian bound on several sets.

Writes ``codecs_<set>.json`` and ``.png`` into a folder and, with ``--docs``, the tables of docs/codecs.md.
Every run is written at once: ``--resume`` goes on where a stopped one ended.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
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
)
#: Peers whose size follows from the number of dimensions alone.
PEERS = (
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
#: What is averaged over seeds.
MEASURED = (
    "recall_at_k",
    "recall_in_candidates",
    "bytes_per_vector",
    "encode_us_per_vector",
    "scan_ns_per_vector",
    "train_s",
    "train_cpu_s",
)
BEGIN, END = "<!-- tables: make eval -->", "<!-- end of tables -->"


def of_faiss(dim: int) -> Iterator[str]:
    """RaBitQ, which faiss leaves to the user to rotate; PQ of one and two bits per dimension.

    Sizes between have subspaces of 5 or 6 dimensions, which faiss is several times slower on.
    """
    for inner in ("RaBitQ", "IVF256,RaBitQ", "RaBitQ2", "RaBitQ4"):
        yield f"faiss(RR{dim},{inner})"
    divisors = [m for m in range(1, dim + 1) if dim % m == 0]
    one = next(m for m in divisors if m >= dim / 8)
    yield f"faiss(PQ{one}x8)"
    yield f"faiss(OPQ{one},PQ{one}x8)"
    fast = next(m for m in divisors if m >= dim / 4)
    yield f"faiss(PQ{fast}x4fs)"
    yield f"faiss(PQ{fast}x8)"


def of_saq(dim: int) -> Iterator[str]:
    """SAQ of the bytes that PQ, RaBitQ and 4-bit codes have, two factors and a list id included."""
    one, two = (next(m for m in range(1, dim + 1) if dim % m == 0 and m >= dim / part) for part in (8, 4))
    for size in (one, one + 8, two, two + 8, dim // 2 + 4):
        for lists in (1, 256):
            bits = math.floor((size - 2 - (lists > 1)) * 8 / dim * 1e4) / 1e4
            yield f"saq(bits={bits:g}{', centroids=256' if lists > 1 else ''})"


class Runs:
    """Results of single seeds of one set, in a file: dicts of a CodecResult's fields, and reasons."""

    def __init__(self, path: Path, title: str, k: int, resume: bool) -> None:
        self._path = path
        self.document: dict[str, Any] = {"title": title, "k": k, "results": [], "skipped": {}, "runs": []}
        if resume and path.exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if (found["title"], found["k"]) == (title, k):
                self.document["runs"] = found["runs"]

    @property
    def results(self) -> list[CodecResult]:
        """Means over the seeds of every spec, in the order of their first runs."""
        by_spec: dict[str, list[CodecResult]] = {}
        for run in self.document["runs"]:
            one = CodecResult(**{**run, "seeds": tuple(run["seeds"])})
            by_spec.setdefault(one.codec, []).append(one)
        return [_mean(rows) for rows in by_spec.values()]

    def has(self, spec: str, seed: int) -> bool:
        """Whether a run is there."""
        return any(run["codec"] == spec and seed in run["seeds"] for run in self.document["runs"])

    def add(self, results: list[CodecResult]) -> None:
        """Take in results of one seed and write the file."""
        for one in results:
            self.document["runs"].append({field.name: getattr(one, field.name) for field in fields(one)})
        self.write()

    def write(self) -> None:
        """Write all runs and their means."""
        self.document["results"] = [one.as_dict() for one in self.results]
        self._path.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")


def _mean(rows: list[CodecResult]) -> CodecResult:
    """Average runs of one spec; what a run does not have, such as a peer's encoding time, stays None."""
    values: dict[str, Any] = {}
    for name in MEASURED:
        column = [getattr(row, name) for row in rows]
        values[name] = None if None in column else statistics.fmean(column)
    recalls = [row.recall_at_k for row in rows]
    sd = statistics.stdev(recalls) if len(rows) > 1 else None
    seeds = tuple(seed for row in rows for seed in row.seeds)
    return replace(rows[0], **values, recall_at_k_sd=sd, seeds=seeds)


def measure(data: Dataset, specs: list[str], runs: Runs, seeds: int, slow_seeds: int, k: int) -> None:
    """Measure one spec after the other; one that fails is a reason, not the end."""

    def say(text: str) -> None:
        print(f"{data.name}: {text}", file=sys.stderr, flush=True)

    skipped = check_specs(specs, data)
    for spec in specs:
        if spec in skipped:
            say(f"skipped {spec}: {skipped[spec]}")
            continue
        for seed in range(slow_seeds if is_slow(spec) else seeds):
            if runs.has(spec, seed):
                continue
            try:
                say(f"{spec}, random_state {seed}")
                runs.add(evaluate(data, [spec], seeds=[seed], k=k, bound=False))
            except (RuntimeError, ValueError) as error:
                skipped[spec] = str(error).removeprefix(f"{spec}: ")
                break
    sizes = {one.bytes_per_vector for one in runs.results if one.kind != "bound"}
    for spec in (f"{BOUND}(bytes={one:g})" for one in sorted(sizes)):
        for seed in range(slow_seeds):
            if not runs.has(spec, seed):
                runs.add(evaluate(data, [spec], seeds=[seed], k=k, bound=False))
    runs.document["skipped"] = skipped
    runs.write()


def is_slow(spec: str) -> bool:
    """Whether one run takes minutes: faiss trains product quantizers fifty times over for a rotation."""
    return "OPQ" in spec


def markdown(document: dict[str, Any]) -> str:
    """Lay out one set's rows, by bytes, the best of equal bytes first."""
    k, rows = document["k"], document["results"]
    at_k, in_more = f"recall_at_{k}", f"recall_{k}_in_{10 * k}"
    most = max(len(row["seeds"]) for row in rows)
    lines = [
        f"### {document['title']}",
        "",
        f"| codec | bytes | recall@{k} | {k} in {10 * k} | encode, us | train, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: (row["bytes_per_vector"], -row[at_k])):
        is_bound, encode = row["kind"] == "bound", row["encode_us_per_vector"]
        name = {"codec": f"**{row['codec']}**", "bound": "*Gaussian bound*"}.get(row["kind"], row["codec"])
        if len(row["seeds"]) < most and not is_bound:
            name += f" ({len(row['seeds'])} seed{'s' if len(row['seeds']) > 1 else ''})"
        cells = (
            name,
            f"{row['bytes_per_vector']:g}",
            f"{row[at_k]:.3f}",
            "-" if row[in_more] is None else f"{row[in_more]:.3f}",
            "-" if encode is None else f"{encode:.2f}",
            "-" if is_bound else f"{row['train_s']:.1f}",
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
    seeds = max(len(row["seeds"]) for one in documents for row in one["results"])
    head = f"Means over {seeds} seed{'s' if seeds > 1 else ''}. {', '.join(versions)}."
    tables = "\n\n".join([head, *map(markdown, documents)])
    docs.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder that holds the sets")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--slow-seeds", type=int, default=1, help="of faiss's OPQ, which trains for minutes, and the bound"
    )
    parser.add_argument("--specs", nargs="+", help="measure these only")
    parser.add_argument("--resume", action="store_true", help="keep the runs that the output folder has")
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
            named = dict.fromkeys([*OURS, *PEERS, *of_faiss(data.dim), *of_saq(data.dim)])
            path = options.output / f"codecs_{name}.json"
            runs = Runs(path, describe(data), options.k, options.resume)
            measure(
                data,
                options.specs or sorted(named, key=is_slow),
                runs,
                options.seeds,
                options.slow_seeds,
                options.k,
            )
        except (OSError, ValueError) as error:
            print(f"codecs: {error}", file=sys.stderr)
            return 1
        documents.append(runs.document)
        save_codecs(runs.results, path.with_suffix(".png"), describe(data))
        print(markdown(runs.document), end="\n\n", flush=True)
        if options.docs is not None:
            write_tables(options.docs, documents)
    return 0


if __name__ == "__main__":
    sys.exit(main())
