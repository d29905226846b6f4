"""The pictures of a report, drawn from the document of a study."""

from __future__ import annotations

from typing import Any

import numpy as np

from bqcore.report.svg import FAINT, INK, SERIES, as_svg, new_figure, style

Document = dict[str, Any]
# Shapes and dashes tell series apart where colours do not.
MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))
#: Curves in one picture; more cannot be told apart.
MOST_CURVES = 6


def family(codec: str) -> str:
    """Return the name of a codec without its settings."""
    return codec.partition("(")[0]


def leaders(document: Document) -> list[dict[str, Any]]:
    """Return the best option of each budget, by bytes: those that curves are drawn for."""
    found = [one for one in document["options"] if one["place"] == 0 or one["chosen"]]
    return found[:MOST_CURVES]


def trade_off(document: Document) -> str:
    """Draw recall against bytes: every option, the frontier, the chosen one; before and after rescoring."""
    options, k = document["options"], document["goal"]["k"]
    families = list(dict.fromkeys(family(one["codec"]) for one in options))
    with style("tradeoff"):
        figure, axes = new_figure("tradeoff")
        for kind, key in (("codes", "recall"), ("rescored", "recall_rescored")):
            line = _frontier(options, key)
            (drawn,) = axes.plot(
                *line, color=FAINT, linewidth=1.4, linestyle="-" if kind == "codes" else "--", zorder=1
            )
            drawn.set_gid(f"{kind}-frontier")
            for i, name in enumerate(families):
                chosen = [one for one in options if family(one["codec"]) == name]
                colour = SERIES[i % len(SERIES)]
                (drawn,) = axes.plot(
                    [one["bytes_per_vector"] for one in chosen],
                    [one[key] for one in chosen],
                    linestyle="none",
                    marker=MARKERS[i % len(MARKERS)],
                    markerfacecolor=colour if kind == "codes" else "none",
                    markeredgecolor=colour,
                    label=name if kind == "codes" else None,
                )
                drawn.set_gid(f"{kind}-{i}")
            (best,) = (one for one in options if one["chosen"])
            (drawn,) = axes.plot(
                best["bytes_per_vector"],
                best[key],
                linestyle="none",
                marker="o",
                markersize=13,
                markerfacecolor="none",
                markeredgecolor=INK,
                label="advised" if kind == "codes" else None,
            )
            drawn.set_gid(f"{kind}-chosen")
        sizes = sorted({one["bytes_per_vector"] for one in options})
        axes.set_xscale("log", base=2)
        shown = [size for i, size in enumerate(sizes) if i == 0 or size > 1.3 * max(s for s in sizes[:i])]
        axes.set_xticks(shown, [str(size) for size in shown])
        axes.minorticks_off()
        if len(sizes) == 1:
            axes.set_xlim(sizes[0] / 2, sizes[0] * 2)
        axes.set(xlabel="bytes per vector", ylabel=f"recall@{k}")
        axes.legend(loc="lower right")
        text = "; ".join(
            f"{one['codec']}: {one['bytes_per_vector']} bytes, recall {one['recall']}" for one in options
        )
        return as_svg(figure, "tradeoff", f"Recall against bytes per vector. {text}")


def _frontier(options: list[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    x: list[float] = []
    y: list[float] = []
    for one in options:  # by bytes
        if not y or one[key] > y[-1]:
            if y:
                x.append(one["bytes_per_vector"])
                y.append(y[-1])
            x.append(one["bytes_per_vector"])
            y.append(one[key])
    return x, y


def candidates(document: Document) -> str:
    """Draw recall after rescoring against candidates per wanted row."""
    k = document["goal"]["k"]
    with style("candidates"):
        figure, axes = new_figure("candidates")
        for i, one in enumerate(leaders(document)):
            curve = document["candidates"][one["codec"]]
            (drawn,) = axes.plot(
                [point["oversampling"] for point in curve],
                [point["recall"] for point in curve],
                color=SERIES[i],
                linestyle=_DASHES[i],
                marker=MARKERS[i],
                markersize=4,
                label=f"{one['bytes_per_vector']} bytes, {family(one['codec'])}",
            )
            drawn.set_gid(f"series-{i}")
        axes.set_xscale("log")
        axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.minorticks_off()
        axes.set(xlabel="candidates rescored per wanted row", ylabel=f"recall@{k}")
        axes.legend(loc="lower right")
        return as_svg(figure, "candidates", "Recall after rescoring against candidates per wanted row.")


def verification(document: Document) -> str | None:
    """Draw predicted against measured recall, with two standard errors; None where nothing was measured."""
    rows = document["verification"]["rows"]
    if not rows:
        return None
    with style("verification"):
        figure, axes = new_figure("verification")
        values = [
            one[key]
            for one in rows
            for key in ("predicted", "measured", "predicted_rescored", "measured_rescored")
        ]
        low = max(0.0, min(values) - 0.05)
        axes.plot([low, 1], [low, 1], color=FAINT, linewidth=1.2)
        axes.fill_between(
            [low, 1], [low - 0.02, 0.98], [low + 0.02, 1.02], color=FAINT, alpha=0.15, linewidth=0
        )
        for i, (suffix, name) in enumerate((("", "codes alone"), ("_rescored", "rescored"))):
            errors = [2 * one["standard_error"] for one in rows] if not suffix else None
            axes.errorbar(
                [one[f"predicted{suffix}"] for one in rows],
                [one[f"measured{suffix}"] for one in rows],
                yerr=errors,
                color=SERIES[i],
                linestyle="none",
                marker=MARKERS[i],
                markerfacecolor=SERIES[i] if not suffix else "none",
                label=name,
            )
        axes.set(xlabel="predicted recall", ylabel="measured recall", xlim=(low, 1.01), ylim=(low, 1.01))
        axes.legend(loc="upper left")
        text = "; ".join(
            f"{one['codec']}: predicted {one['predicted']}, measured {one['measured']}" for one in rows
        )
        return as_svg(figure, "verification", f"Predicted against measured recall. {text}")


def variances(document: Document) -> str:
    """Draw each coordinate's share of the variance, and the spectrum."""
    variance = np.array(document["coordinates"]["variance"])
    spectrum = np.array(document["coordinates"]["spectrum"])
    total = variance.sum() or 1.0
    n = len(variance)
    with style("variances"):
        figure, axes = new_figure("variances")
        (drawn,) = axes.plot(
            np.arange(n), variance / total * n, color=SERIES[0], linewidth=0.8, label="coordinates, by number"
        )
        drawn.set_gid("series-0")
        (drawn,) = axes.plot(
            np.arange(n),
            np.sort(variance)[::-1] / total * n,
            color=SERIES[1],
            linestyle="--",
            label="coordinates, sorted",
        )
        drawn.set_gid("series-1")
        (drawn,) = axes.plot(
            np.arange(n), spectrum / total * n, color=SERIES[2], linestyle="-.", label="principal directions"
        )
        drawn.set_gid("series-2")
        positive = np.concatenate([variance, spectrum])
        positive = positive[positive > 0] / total * n
        if len(positive):
            axes.set_yscale("log")
            axes.set_ylim(max(positive.min() / 2, positive.max() / 1e6), positive.max() * 2)
        axes.set(xlabel="coordinate, or direction", ylabel="variance, 1 = the mean")
        axes.legend(loc="upper right")
        return as_svg(figure, "variances", f"Variance of {n} coordinates, and of the principal directions.")


def scatter(data: dict[str, Any], name: str = "scatter") -> str:
    """Draw estimates against exact distances, with the error bound where the codec has one."""
    exact, estimate = np.array(data["exact"]), np.array(data["estimate"])
    with style(name):
        figure, axes = new_figure(name)
        low, high = float(exact.min()), float(exact.max())
        if data["bound"] is not None:
            order = np.argsort(exact)
            bins = np.array_split(order, 24)
            centre = np.array([exact[part].mean() for part in bins])
            width = np.array([np.median(np.array(data["bound"])[part]) for part in bins])
            label = f"error bound, {data['eps0']} sd"
            low_edge, high_edge = centre - width, centre + width
            axes.fill_between(
                centre, low_edge, high_edge, color=SERIES[1], alpha=0.22, linewidth=0, label=label
            )
        (drawn,) = axes.plot(
            exact,
            estimate,
            linestyle="none",
            marker="o",
            markersize=2.2,
            color=SERIES[0],
            alpha=0.6,
            markeredgewidth=0,
        )
        drawn.set_gid("points")
        axes.plot([low, high], [low, high], color=INK, linewidth=1, label="exact")
        axes.set(xlabel="exact distance", ylabel="estimated distance")
        axes.legend(loc="upper left")
        return as_svg(figure, name, f"Estimated against exact distances, correlation {data['correlation']}.")


def queries(document: Document) -> str:
    """Draw how recall is spread over queries."""
    data = document["queries"]
    edges = np.array(data["recall"])
    width = float(edges[1] - edges[0]) * 0.42
    with style("queries"):
        figure, axes = new_figure("queries")
        for i, (key, name) in enumerate((("queries_codes", "codes alone"), ("queries_rescored", "rescored"))):
            bars = axes.bar(
                edges + (i - 0.5) * width,
                data[key],
                width,
                color=SERIES[i] if i == 0 else "none",
                edgecolor=SERIES[i],
                hatch="" if i == 0 else "////",
                label=name,
            )
            for bar in bars:
                bar.set_gid(f"series-{i}-{bars.index(bar)}")
        axes.set(xlabel="recall of a query", ylabel="queries")
        axes.legend(loc="upper left")
        return as_svg(figure, "queries", "Number of queries by their recall, before and after rescoring.")
