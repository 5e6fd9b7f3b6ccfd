"""Kinds of folders, and what a page shows of each. All is read as data; nothing that a file names is imported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from . import about, evaluation, network, run_fronts, training
from .contents import Figure, Files, Fold, Part, Section, Table, percent, said, size_text, table_of

Kind = Literal["auto", "export", "comparison", "study", "pareto", "search", "retrain", "quickstart", "training"]

SPLITS = {"val": "validation"}
SUMMARY, MANIFEST, RUNS = "summary.json", "manifest.json", "runs.jsonl"
TITLES: dict[Kind, str] = {
    "auto": "Automatic search",
    "export": "Exported network",
    "comparison": "Comparison of methods",
    "study": "Discrete search",
    "pareto": "Search of a front",
    "search": "Search",
    "retrain": "Retraining",
    "quickstart": "Quickstart",
    "training": "Training",
}


def kind_of(folder: Path) -> Kind | None:
    """What made a folder, by the files that are in it; None for others."""
    files = Files(folder)
    if files.has(SUMMARY) or (files.has("plan.json") and files.has("done.json")):
        return "auto"
    if files.has(MANIFEST):
        return "export"
    if files.has(RUNS):
        return "comparison"
    if files.has(run_fronts.LOG):
        return "study"
    if files.has(about.CONFIG):
        model = about.config_of(files).get("model")
        if files.has(run_fronts.ARCHIVE) or about.class_name(model) == "NAT":
            return "pareto"
        return "search" if about.class_name(model) else "retrain"
    if files.has(evaluation.RESULTS) and "random" in files.object(evaluation.RESULTS):
        return "quickstart"
    return "training" if files.has(training.METRICS) else None


def read_part(folder: Path, kind: Kind) -> Part:
    """Everything that a page shows of a folder."""
    files = Files(folder)
    part = Part(TITLES[kind])
    config = about.config_of(files)
    files.part("Part of this page", lambda: READERS[kind](files, config, part), None)
    warnings = [
        *about.recorded_warnings(files),
        *files.part("history.json", lambda: run_fronts.predictor_warnings(files), list[str]()),
        *files.part("The numbers of samples", lambda: about.data_warnings(files), list[str]()),
    ]
    if (data := files.part("data.json", lambda: about.data_section(files, config), None)) is not None:
        part.sections.append(data)
    if kind not in ("auto", "comparison", "training", "quickstart"):
        front = kind in ("pareto", "study")
        part.sections.append(about.load_section(folder, exported=kind == "export", front=front))
    if (made := files.part("commands.json", lambda: about.made_section(files), None)) is not None:
        part.sections.append(made)
    part.warnings = [*part.warnings, *warnings, *dict.fromkeys(files.problems)]
    return part


def _auto(files: Files, config: Mapping[str, Any], part: Part) -> None:
    found = files.object(SUMMARY)
    part.title = str(found.get("title") or part.title)
    rows = [row for row in found.get("table") or () if isinstance(row, dict)]
    interval = rows[0].get("95 % interval") if rows else None
    count = f"{found['samples']:,} test samples" if isinstance(found.get("samples"), int) else "test samples"
    for figure in evaluation.figures({"metrics": found.get("test") or {}}):
        told = f"{interval} (95 %, Wilson), on {count}" if interval and figure.name == "test accuracy" else ""
        part.figures.append(Figure(figure.name, figure.value, told or figure.note))
    if isinstance(found.get("file_ms"), int | float):
        limit = found.get("limit_ms")
        part.figures.append(
            Figure("latency of the file", f"{found['file_ms']:.4g} ms", f"limit {limit:g} ms" if limit else "")
        )
    if not found:
        part.lines.append("The result is not there yet.")
    part.warnings += [str(line) for line in found.get("warnings") or ()]
    if rows:
        part.sections.append(Section("compared", "Networks compared", table=table_of(rows)))
    if lines := [str(line) for line in found.get("lines") or ()]:
        part.sections.append(Section("decided", "What was decided", items=lines))


def _export(files: Files, config: Mapping[str, Any], part: Part) -> None:
    manifest = files.object(MANIFEST)
    tested = evaluation.read_evaluation(files)
    shown = evaluation.figures(tested)
    known = {figure.name for figure in shown}
    part.figures += [*shown, *(f for f in _metrics(manifest.get("metrics") or {}) if f.name not in known)]
    part.figures += _latencies(manifest.get("latency") or (), part)
    part.figures += network.figures(manifest)
    sizes = {name: size_text(size) for name in manifest.get("files") or () if (size := _size(files.folder / name))}
    part.sections += files.part(evaluation.EVALUATION, lambda: evaluation.sections(tested), list[Section]())
    part.sections += _architecture(files, _with_config(files.object(network.NETWORK), manifest))
    if weights := next((name for name in ("model.onnx", "model.safetensors") if name in sizes), None):
        part.figures.append(Figure("size", sizes[weights], weights))
    versions = [[str(name), str(version)] for name, version in (manifest.get("versions") or {}).items()]
    if sizes:
        section = Section("files", "Files", table=Table(["file", "size"], list(sizes.items()), ["size"]))
        section.lines = [f"Written {about.said_time(manifest.get('created'))}."] if manifest.get("created") else []
        if versions:
            section.folds = [Fold("Versions", table=Table(["package", "version"], versions))]
        part.sections.append(section)


def _run(files: Files, config: Mapping[str, Any], part: Part) -> None:
    """A search or a retraining."""
    series = files.part(training.METRICS, lambda: training.read_metrics(files), training.Series())
    epochs, planned = training.epochs_of(series), (config.get("trainer") or {}).get("max_epochs")
    part.lines += [_what(config)] if _what(config) else []
    tested = evaluation.read_evaluation(files)
    part.figures += evaluation.figures(tested)
    if not part.figures:
        part.figures += _last(series)
    found = files.object(network.NETWORK)
    part.figures += network.figures(found)
    if epochs:
        part.figures.append(Figure("epochs", f"{epochs}", f"of {planned}" if planned else ""))
    part.sections += files.part(evaluation.EVALUATION, lambda: evaluation.sections(tested), list[Section]())
    part.sections += _architecture(files, found or _subnet(files))
    part.sections += [s for s in (training.curves(series), training.alphas(series)) if s is not None]
    part.warnings += _collapse(series)


def _pareto(files: Files, config: Mapping[str, Any], part: Part) -> None:
    section, figures = run_fronts.pareto_section(files)
    part.figures += figures
    part.lines += run_fronts.history_line(files)
    of_front = len(part.figures)
    _run(files, config, part)
    # The size of the most accurate network stands in the front, and is not that of the others.
    part.figures = [f for i, f in enumerate(part.figures) if i < of_front or f.name == "epochs"]
    for each in part.sections:
        if each.id == "cells":
            each.title = "Architecture of the most accurate network"
    if section is not None:
        part.sections.insert(0, section)
    else:
        part.lines.append("There is no front yet: its first search is not over.")


def _study(files: Files, config: Mapping[str, Any], part: Part) -> None:
    section, figures = run_fronts.study_section(files, config)
    strategy, evaluator = (about.class_name(config.get(name)) for name in ("strategy", "evaluator"))
    part.lines.append(f"{strategy} with {evaluator}; objectives {', '.join(map(str, config.get('objectives') or ()))}.")
    part.figures += figures
    if section is not None:
        part.sections.append(section)
    else:
        part.lines.append("No evaluation has succeeded yet, or they are written when the study stops.")
    _, rows = files.rows(run_fronts.TABLE)
    if failed := [row for row in rows if row.get("failure")]:
        reasons = list(dict.fromkeys(row["failure"] for row in failed))
        part.warnings.append(f"{len(failed)} of {len(rows)} evaluations failed: {'; '.join(reasons[:3])}")
    pictures = files.picture("study.png", "every evaluation in its order, and the best so far")
    if pictures:
        part.sections.append(Section("progress", "Evaluations over time", pictures=pictures))
    part.sections += _architecture(files, _subnet(files))


def _comparison(files: Files, config: Mapping[str, Any], part: Part) -> None:
    found = files.object("results.json")
    scores = [str(score["metric"]) for score in found.get("scores") or ()]
    rows = []
    for method in found.get("methods") or ():
        row: dict[str, Any] = {"method": method["label"]}
        for name in scores:
            of = method.get(name) or {}
            spread = f" ± {of['std']:.3g}" if of.get("std") is not None else ""
            row |= {name: f"{of['mean']:.4g}{spread}" if of else None, f"best {name}": of.get("best")}
            row["seeds"] = len(of.get("seeds") or ())
        rows.append(row)
    if rows:
        lines = ["Mean ± standard deviation over the seeds."]
        part.sections.append(Section("methods", "Methods compared", lines, table=table_of(rows)))
    else:
        part.lines.append("No run is finished yet.")
    columns = {"mean": "mean difference", "low": "95 % from", "high": "to", "adjusted": "p, adjusted"}
    differences = [
        {"metric": name, **{columns.get(what, what): value for what, value in of.items()}}
        for name in scores
        for of in (found.get("differences") or {}).get(name, ())
    ]
    if differences:
        lines = ["The first minus the second, over the seeds that both have; p after Holm's correction."]
        part.sections.append(Section("differences", "Differences between methods", lines, table=table_of(differences)))
    runs = [run for run in found.get("runs") or () if isinstance(run, dict)]
    part.warnings += [f"{run['label']}, seed {run['seed']}: {note}" for run in runs for note in run.get("notes") or ()]
    part.warnings += [f"{r['label']}, seed {r['seed']} failed: {r['failure']}" for r in runs if r.get("failure")]
    for name, alt, title in (
        ("results.png", "every run as a dot, for each method", "Every run"),
        ("curves.png", "the curves of the searches", "Curves of the searches"),
    ):
        if pictures := files.picture(name, alt):
            part.sections.append(Section(name.partition(".")[0], title, pictures=pictures))


def _quickstart(files: Files, config: Mapping[str, Any], part: Part) -> None:
    found = files.object(evaluation.RESULTS)
    rows = [row for row in (found.get("found"), *(found.get("random") or ())) if isinstance(row, dict)]
    part.figures += (
        [Figure("test accuracy", percent(float(rows[0]["accuracy"])), "359 held-out digits")] if rows else []
    )
    part.figures += network.figures(rows[0]) if rows else []
    if rows:
        part.sections.append(Section("compared", "The network that was found, and random ones", table=table_of(rows)))
    part.sections += network.sections(files, {})


def _training(files: Files, config: Mapping[str, Any], part: Part) -> None:
    series = training.read_metrics(files)
    part.sections += [s for s in (training.curves(series), training.alphas(series)) if s is not None]


def _architecture(files: Files, found: Mapping[str, Any]) -> list[Section]:
    return files.part(network.NETWORK, lambda: network.sections(files, found), list[Section]())


def _what(config: Mapping[str, Any]) -> str:
    """Method, network and data of a configuration in a sentence."""
    model = config.get("model") or {}
    method = about.class_name(model)
    network_of = (about.arguments(model) if method else model).get("supernet") or model.get("network")
    of, on = about.class_name(network_of), about.data_name(config)
    names = [method or "Training", f"of {of}" if of else "", f"on {on}" if on else ""]
    return " ".join(filter(None, names)) + "."


def _last(series: training.Series) -> list[Figure]:
    """The last value of the metrics on validation samples."""
    found = []
    for name in series:
        if name.startswith("val/") and not name.endswith("loss"):
            value, metric = series[name][1][-1], name.removeprefix("val/")
            shown = percent(value) if metric == "accuracy" else f"{value:.4g}"
            found.append(Figure(f"validation {metric}", shown, "with the weights of the last epoch"))
    return found


def _collapse(series: training.Series) -> list[str]:
    """Whether the architecture weights are nearly certain at the end, or hardly differ, in words."""
    entropy = training.last_of(series, "collapse/entropy")
    return (
        []
        if entropy is None or entropy >= 0.05
        else [
            f"The architecture weights are nearly certain (mean entropy {entropy:.3g} nats): it explores no more. "
            "If the architecture has few operations with parameters, take that of an earlier epoch."
        ]
    )


def _metrics(metrics: Mapping[str, Any]) -> list[Figure]:
    """The metrics that a manifest keeps."""
    shown = []
    for name, value in metrics.items():
        if isinstance(value, int | float) and not name.startswith("front/") and not name.endswith("loss"):
            split, _, metric = name.rpartition("/")
            text = percent(value) if metric in ("accuracy", "balanced_accuracy") and 0 <= value <= 1 else said(value)
            shown.append(Figure(f"{SPLITS.get(split, split) or 'measured'} {metric}", text))
    return shown


def _latencies(entries: Any, part: Part) -> list[Figure]:
    """Measured latencies, with what was predicted; warnings where they are noisy or far from it."""
    shown = []
    for entry in entries:
        ms, spread = entry.get("measured_ms"), entry.get("spread_ms")
        predicted = entry.get("predicted_ms")
        if ms is None:
            if predicted is not None:
                why = entry.get("not_measured") or "not measured"
                shown.append(Figure("predicted latency", f"{predicted:.4g} ms", f"not measured: {why}"))
            continue
        threads = entry.get("threads")
        where = ", ".join(
            filter(
                None,
                (
                    f"{entry.get('runtime')} on {entry.get('name') or entry.get('device')}",
                    f"{threads} thread{'' if threads == 1 else 's'}" if threads else "",
                    f"batch {entry.get('batch')}",
                ),
            )
        )
        told = f"± {spread:.2g} ms, " if spread is not None else ""
        guess = f"; {predicted:.4g} ms predicted" if predicted is not None else ""
        shown.append(Figure("measured latency", f"{ms:.4g} ms", f"{told}{where}{guess}"))
        if spread is not None and ms and spread / ms > NOISY:
            part.warnings.append(
                f"The latency was noisy: half of the passes were within ± {spread / ms:.0%} of the median. Measure "
                "again when nothing else runs on the machine."
            )
        if (off := entry.get("difference")) is not None and abs(off) > FAR:
            part.warnings.append(
                f"The measured latency is {abs(off):.0%} {'above' if off > 0 else 'below'} the predicted one: what the "
                "search believed about latencies was wrong here. Measure the device again (oneshot measure)."
            )
    return shown


NOISY, FAR = 0.1, 0.25  # relative: spread of the passes, and distance from what was predicted


def _subnet(files: Files) -> dict[str, Any]:
    """The architecture of ``subnet.json``."""
    found = files.object("subnet.json")
    picks = found.get("picks") if isinstance(found.get("picks"), dict) else None
    if picks is None:
        return {}
    text = "; ".join(f"{name}: {' '.join(map(str, row))}" for name, row in picks.items())
    return {"network": str(found.get("space") or "architecture"), "architecture": text}


def _with_config(found: dict[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """``network.json``, or of exports without one, the architecture in the manifest."""
    config = manifest.get("config")
    if found or not isinstance(config, dict) or not isinstance(config.get("picks"), dict):
        return found
    text = "; ".join(f"{name}: {' '.join(map(str, row))}" for name, row in config["picks"].items())
    return {"network": str(config.get("space") or "architecture"), "architecture": text}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


READERS: dict[Kind, Callable[[Files, Mapping[str, Any], Part], None]] = {
    "auto": _auto,
    "export": _export,
    "comparison": _comparison,
    "study": _study,
    "pareto": _pareto,
    "search": _run,
    "retrain": _run,
    "quickstart": _quickstart,
    "training": _training,
}
