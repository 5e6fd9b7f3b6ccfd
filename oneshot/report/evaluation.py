"""What a test of a network shows: the metric with its interval, every class, confusions, the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .contents import Figure, Files, Section, Table, percent

EVALUATION, CONFUSION, RESULTS = "evaluation.json", "confusion.json", "results.json"
MOST_CLASSES = 25  # in a confusion matrix; of more, the most frequent confusions are listed
CONFUSIONS = 30
HEAD = 20  # characters of a class above a matrix, at most
LONG = 4  # characters of a class from which on the names above a matrix are turned


def wilson(right: int, samples: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share (J. Am. Stat. Assoc. 22, 1927): it stays within 0 and 1, also for few samples.

    Args:
        right: How many samples were right.
        samples: How many there were, at least 1.
        confidence: How often such intervals hold the true share.

    Example:
        >>> low, high = wilson(90, 100)
        >>> round(low, 3), round(high, 3)
        (0.826, 0.945)
    """
    from scipy.stats import binomtest

    found = binomtest(right, samples).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def interval(right: int, samples: int) -> str:
    """The 95 % interval of an accuracy, in words."""
    low, high = wilson(right, samples)
    return f"{100 * low:.1f} to {100 * high:.1f} %"


# Metrics whose names say little.
IN_WORDS = {"ece": ("calibration error", "how far sureness is from accuracy (ECE); 0 is best")}


def read_evaluation(files: Files) -> dict[str, Any]:
    """``evaluation.json``; of runs of earlier releases, what ``results.json`` and ``confusion.json`` say."""
    found = files.object(EVALUATION)
    if not found and (files.has(CONFUSION) or files.has(RESULTS)):
        found = {**files.object(CONFUSION), "metrics": files.object(RESULTS), "split": "test"}
    return found


def figures(found: Mapping[str, Any]) -> list[Figure]:
    """The metrics of a test; accuracies of independent samples with their interval."""
    shown = []
    split, counted = found.get("split", "test"), _counted(found)
    for name, value in found.get("metrics", {}).items():
        if not isinstance(value, int | float):
            continue
        metric = str(name).rpartition("/")[2]
        if metric == "accuracy":
            note = f"on {split} samples"
            if counted is not None:
                right, samples = counted
                note = f"{interval(right, samples)} (95 %, Wilson), on {samples:,} {split} samples"
            shown.append(Figure(f"{split} accuracy", percent(value), note))
        elif metric != "loss":
            told, note = IN_WORDS.get(metric, (metric, ""))
            shown.append(Figure(f"{split} {told}", f"{value:.4g}", note))
    return shown


def sections(found: Mapping[str, Any]) -> list[Section]:
    """Classes, confusions and mistakes, as far as they are known."""
    names, matrix = found.get("classes"), found.get("confusion")
    made: list[Section] = []
    if names and matrix:
        names = [str(name) for name in names]
        counts = [[int(n) for n in row] for row in matrix]
        if len(counts) != len(names) or any(len(row) != len(names) for row in counts):
            raise ValueError(f"the confusion matrix must have a row and a column for each of {len(names)} classes")
        what = "pixels" if _counted(found) is None and found.get("independent") is False else "samples"
        made += [_by_class(names, counts, what), _confusion(names, counts, what)]
    if mistakes := found.get("mistakes"):
        made.append(_mistakes(mistakes, found))
    return made


def _counted(found: Mapping[str, Any]) -> tuple[int, int] | None:
    """How many samples were right, and how many there were; None where they are not independent, as pixels are."""
    matrix = found.get("confusion")
    if not matrix or found.get("independent") is False:
        return None
    right, samples = sum(row[i] for i, row in enumerate(matrix)), sum(sum(row) for row in matrix)
    accuracies = [v for n, v in found.get("metrics", {}).items() if str(n).rpartition("/")[2] == "accuracy"]
    # A run of an earlier release does not say whether they are pixels; then its accuracy is that of the matrix, too.
    unknown = "independent" not in found and any(str(n).endswith("iou") for n in found.get("metrics", {}))
    same = bool(accuracies) and samples > 0 and abs(accuracies[0] - right / samples) < 1e-3
    return None if unknown or not same else (right, samples)


def _by_class(names: Sequence[str], counts: Sequence[Sequence[int]], what: str) -> Section:
    rows = []
    for i, name in enumerate(names):
        total, predicted, right = sum(counts[i]), sum(row[i] for row in counts), counts[i][i]
        wrong = max(((n, j) for j, n in enumerate(counts[i]) if j != i), default=(0, 0))
        rows.append(
            [
                name,
                f"{total:,}",
                percent(right / total) if total else "–",
                interval(right, total) if total and what == "samples" else "–",
                percent(right / predicted) if predicted else "–",
                f"{names[wrong[1]]} ({wrong[0]:,})" if wrong[0] else "–",
            ]
        )
    columns = ["class", what, "right (recall)", "95 % interval", "precision", "most often taken for"]
    return Section("classes", "Every class", table=Table(columns, rows, columns[1:5]))


def _confusion(names: Sequence[str], counts: Sequence[Sequence[int]], what: str) -> Section:
    if len(names) > MOST_CLASSES:
        pairs = [(n, i, j) for i, row in enumerate(counts) for j, n in enumerate(row) if i != j and n]
        rows = [[names[i], names[j], f"{n:,}"] for n, i, j in sorted(pairs, reverse=True)[:CONFUSIONS]]
        said = [f"The most frequent of {len(pairs):,} kinds of confusion."]
        return Section("confusion", "Confusions", said, table=Table(["true", "predicted", what], rows, [what]))
    rows_of = [[{"count": n, "share": 0.85 * n / total if (total := sum(row)) else 0.0} for n in row] for row in counts]
    said = [f"Numbers of {what}: a row for each true class, a column for each predicted one. Right ones are green."]
    heads = [name if len(name) <= HEAD else f"{name[: HEAD - 1]}…" for name in names]
    shown = {"names": names, "heads": heads, "rows": rows_of, "turned": max(map(len, names)) > LONG}
    return Section("confusion", "Confusion matrix", said, confusion=shown)


def _mistakes(mistakes: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> Section:
    shown = []
    for one in mistakes:
        true, predicted = str(one.get("true")), str(one.get("predicted"))
        share = one.get("confidence")
        sure = f" ({100 * share:.0f} % sure)" if isinstance(share, int | float) else ""
        where = one.get("file") or (f"sample {one['index']}" if one.get("index") is not None else "")
        picture = one.get("picture")
        if not (isinstance(picture, str) and picture.startswith("data:image/")):
            picture = None
        text = f"{true}, {'taken for' if found.get('classes') else 'predicted'} {predicted}{sure}"
        shown.append({"picture": picture, "alt": text, "text": text, "where": where, "photo": bool(one.get("photo"))})
    split = found.get("split", "test")
    title, said = "Worst mistakes", [f"Wrong {split} samples of which the network was surest."]
    if not found.get("classes"):
        title, said = "Largest errors", [f"The {split} samples with the largest errors: true and predicted value."]
    if found.get("part"):
        said.append("Of the samples that the first process tested.")
    return Section("mistakes", title, said, mistakes=shown)
