"""Turns figures into tables and a plot."""

import json
import pathlib
import statistics

import matplotlib.pyplot as plt

from speed.cells import CELLS, SMALL_BATCH, Cell
from speed.rows import ROWS

__all__ = ["write_report"]

_MEASURES = {"train_s": "training step", "log_prob_s": "`log_prob`", "sample_s": "`sample`"}
_OF_REFLECTIONS = {
    "train_s": "forward and backward",
    "log_prob_s": "forward",
    "sample_s": "inverse",
}
# What is compiled: two of gyoza's backends, and all that runs in some environments.
_COMPILED = ("gyoza on TensorFlow", "gyoza on JAX")
_COMPILING = ("flowjax", "distrax", "tfp", "bayesflow", "diffrax")
_OF_SOLVERS = {"train_s": "`sample`", "log_prob_s": "`log_prob`"}


def write_report(results: dict, folder: pathlib.Path) -> None:
    """Writes `results.json`, `tables.md`, `first_calls.md`, and `memory.png` where it was measured.

    Args:
        results: What was measured where.
        folder: Where the files go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    figures: dict[str, dict[str, list[dict]]] = {}
    for entry in results["figures"]:
        figures.setdefault(entry["cell"], {}).setdefault(entry["row"], []).append(entry)
    figures = {name: figures[name] for name in CELLS if name in figures}
    parts = [_describe(results), _summarise(figures)]
    if set(_COMPILED) <= {row for rows in figures.values() for row in rows}:
        first_calls = f"{_describe(results)}\n\n{_tabulate_first_calls(figures)}\n"
        (folder / "first_calls.md").write_text(first_calls, "utf-8")
    parts += [
        f"### {name}\n\n{_capitalise(CELLS[name].title)}.\n\n{_tabulate(CELLS[name], rows)}"
        for name, rows in figures.items()
        if not CELLS[name].measures_memory
    ]
    deep = {name: rows for name, rows in figures.items() if CELLS[name].measures_memory}
    small = deep.pop(SMALL_BATCH, {})
    for rows in deep.values():
        for row, entries in rows.items():
            _subtract_weights(entries, small.get(row, []))
    if deep:
        parts.append(_tabulate_memory(deep))
        _plot_memory(deep, folder / "memory.png")
    (folder / "tables.md").write_text("\n\n".join(parts) + "\n", "utf-8")


def _describe(results: dict) -> str:
    machine = results["machine"]
    versions: dict[str, str] = {}
    for entry in results["figures"]:
        versions.update(entry["versions"])
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    rounds = 1 + max(entry["round"] for entry in results["figures"])
    where = machine["processor"] + (
        f", {machine['accelerator']}" if "accelerator" in machine else ""
    )
    return (
        f"Measured on {machine['date']} on {where}, with Python {machine['python']}, in {rounds} "
        f"round{'s' if rounds > 1 else ''} of {results['minutes']:.0f} minutes together. Versions: "
        f"{listed}."
    )


def _median(entries: list[dict], measure: str) -> float | None:
    """Returns the median of all measurements in all rounds."""
    values = _all(entries, measure)
    return statistics.median(values) if values else None


def _all(entries: list[dict], measure: str) -> list[float]:
    values = [entry[measure] for entry in entries if measure in entry]
    return [v for value in values for v in (value if isinstance(value, list) else [value])]


def _fastest(rows: dict[str, list[dict]], measure: str) -> float:
    medians = [_median(entries, measure) for entries in rows.values()]
    return min((m for m in medians if m is not None), default=float("nan"))


def _summarise(figures: dict[str, dict[str, list[dict]]]) -> str:
    """Compares gyoza's rows with the fastest other row of each cell."""
    own = [name for rows in figures.values() for name in rows if name.startswith("gyoza on")]
    own = [name for name in dict.fromkeys(own) if "efficient" not in name]
    lines = [
        "| cell | measure | fastest other library | its time | " + " | ".join(own) + " |",
        "|---|---|---|--:|" + "--:|" * len(own),
    ]
    for name, rows in figures.items():
        peers = {row: entries for row, entries in rows.items() if not row.startswith("gyoza on")}
        for measure, title in _name_measures(CELLS[name]).items():
            medians = {row: _median(entries, measure) for row, entries in peers.items()}
            offered = {row: median for row, median in medians.items() if median is not None}
            if not offered or CELLS[name].measures_memory:
                continue
            best = min(offered, key=offered.__getitem__)
            ratios = []
            for row in own:
                median = _median(rows.get(row, []), measure)
                ratios.append("" if median is None else f"{median / offered[best]:.2f}×")
            lines.append(
                f"| {name} | {title} | {best} | {_format_time(offered[best])} | "
                + " | ".join(ratios)
                + " |"
            )
    return "\n".join(lines)


def _name_measures(cell: Cell) -> dict[str, str]:
    return {"reflections": _OF_REFLECTIONS, "adaptive": _OF_SOLVERS}.get(cell.kind, _MEASURES)


def _tabulate(cell: Cell, rows: dict[str, list[dict]]) -> str:
    """Makes the table of one cell."""
    measures = {
        measure: title
        for measure, title in _name_measures(cell).items()
        if any(_all(entries, measure) for entries in rows.values())
    }
    first_calls = "first step"
    if any(_all(entries, "first_log_prob_s") for entries in rows.values()):
        first_calls += ", then first calls of the others"
    rate = " | share of the rate of matrix products" if cell.is_large else ""
    lines = [
        f"| library | {' | '.join(measures.values())}{rate} | {first_calls}, s | memory, MiB |",
        "|---|" + "--:|" * (len(measures) + 2 + cell.is_large),
    ]
    order = sorted(rows, key=lambda row: _median(rows[row], "train_s") or 0.0)
    for row in order:
        cells = []
        for measure in measures:
            median = _median(rows[row], measure)
            ratio = "" if median is None else f"{median / _fastest(rows, measure):.2f}× "
            cells.append("" if median is None else ratio + _format_spread(rows[row], measure))
        if cell.is_large:
            cells.append(_format_rate(rows[row]))
        peak = _median(rows[row], "peak_mib") or 0.0
        first = _format_first_calls(rows[row])
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {first} | {peak:.0f} |")
    return "\n".join(lines)


def _format_first_calls(entries: list[dict]) -> str:
    seconds = [_median(entries, f"first_{name}_s") for name in ("step", "log_prob", "sample")]
    return ", ".join(f"{value:.1f}" for value in seconds if value is not None)


def _tabulate_first_calls(figures: dict[str, dict[str, list[dict]]]) -> str:
    """Compares the first calls of what is compiled, with the library that then trains fastest.

    Some cells have a first step alone.
    """
    lines = [
        f"| cell | {' | '.join(_COMPILED)} | fastest compiled library |",
        "|---|" + "--:|" * (len(_COMPILED) + 1),
    ]
    others = {row.name for row in ROWS if row.environment in _COMPILING or "compiled" in row.name}
    for name, rows in figures.items():
        if name == SMALL_BATCH:
            continue
        cells = [_format_first_calls(rows[row]) for row in _COMPILED]
        best = min(others & set(rows), key=lambda row: _median(rows[row], "train_s"), default=None)
        cells.append("" if best is None else f"{best}: {_format_first_calls(rows[best])}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _tabulate_memory(figures: dict[str, dict[str, list[dict]]]) -> str:
    """Makes the table of memory against depth."""
    rows = list(dict.fromkeys(row for of_cell in figures.values() for row in of_cell))
    depths = [CELLS[name].depth for name in figures]
    title = CELLS[next(iter(figures))].title.split(" ", 1)[1]
    lines = [
        f"### W6\n\nDeep flows: {title}.\n",
        "| library | | " + " | ".join(f"depth {depth}" for depth in depths) + " |",
        "|---|---|" + "--:|" * len(depths),
    ]
    for row in rows:
        for measure, label in (
            (_activations, "activations, MiB"),
            (_peak, "peak of the process, MiB"),
            (_seconds, "training step, s"),
        ):
            values = [measure(of_cell.get(row)) for of_cell in figures.values()]
            lines.append(f"| {row} | {label} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def _subtract_weights(entries: list[dict], of_small_batch: list[dict]) -> None:
    """Adds the memory of activations: what a step takes, less what its weights and updates take.

    The latter is what it takes with a small batch, in proportion to the number of weights.
    """
    for entry in entries:
        entry["activations_mib"] = entry["step_mib"] - entry["weight_count"] * statistics.median(
            [small["step_mib"] / small["weight_count"] for small in of_small_batch] or [0.0]
        )


def _activations(entries: list[dict] | None) -> str:
    return f"{_median(entries, 'activations_mib'):.0f}" if entries else ""


def _peak(entries: list[dict] | None) -> str:
    return f"{_median(entries, 'peak_mib'):.0f}" if entries else ""


def _seconds(entries: list[dict] | None) -> str:
    return f"{_median(entries, 'train_s'):.2f}" if entries else ""


def _plot_memory(figures: dict[str, dict[str, list[dict]]], path: pathlib.Path) -> None:
    """Draws memory against depth."""
    rows = list(dict.fromkeys(row for of_cell in figures.values() for row in of_cell))
    figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for index, row in enumerate(rows):
        cells = [name for name in figures if row in figures[name]]
        axes.plot(
            [CELLS[name].depth for name in cells],
            [_median(figures[name][row], "activations_mib") for name in cells],
            color=f"C{index}",
            marker="osD^v<>P*X"[index % 10],
            linestyle="-" if "efficient" in row else "--",
            label=row,
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="depth: number of couplings",
        ylabel="activations of a training step, MiB",
    )
    depths = [CELLS[name].depth for name in figures]
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    figure.legend(loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _format_time(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _format_rate(entries: list[dict]) -> str:
    """Returns how many operations of matrix products a step takes in a second, of how many."""
    rate, flop = _median(entries, "matrix_rate"), _median(entries, "step_flop")
    if rate is None or flop is None:
        return ""
    reached = flop / (_median(entries, "train_s") or float("inf"))
    return f"{100 * reached / rate:.0f}% ({1e-12 * reached:.3g} of {1e-12 * rate:.3g} TFLOP/s)"


def _format_spread(entries: list[dict], measure: str) -> str:
    """Returns the median in milliseconds, and the quartiles around it."""
    values = sorted(_all(entries, measure))
    low, high = values[len(values) // 4], values[-1 - len(values) // 4]
    return f"({_format_time(statistics.median(values))}, {1e3 * low:.3g} to {1e3 * high:.3g})"


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
