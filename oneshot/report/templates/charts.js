"use strict";
const NS = "http://www.w3.org/2000/svg";
const put = (tag, at, into, inner) => { const e = document.createElementNS(NS, tag);
  for (const k in at) e.setAttribute(k, at[k]); if (inner !== undefined) e.textContent = inner; into.append(e); return e; };
const add = (tag, into, text, kind) => { const e = document.createElement(tag); if (text !== undefined) e.textContent = text;
  if (kind) e.className = kind; into.append(e); return e; };
const short = v => v === null ? "–" : Math.abs(v) >= 1e9 ? (v / 1e9).toFixed(2) + " G" : Math.abs(v) >= 1e6 ? (v / 1e6).toFixed(2) + " M"
  : Math.abs(v) >= 1e4 ? (v / 1e3).toFixed(1) + " k" : +v.toPrecision(4) + "";
const round = (a, b, n) => { const p = 10 ** Math.floor(Math.log10((b - a) / n)), s = [1, 2, 5, 10].map(k => k * p).find(s => s * (n + 1) > b - a);
  return Array.from({length: 2 * n + 2}, (_, k) => (Math.ceil(a / s) + k) * s).filter(v => v <= b); };
const span = (a, most) => { const lo = Math.min(...a), hi = Math.max(...a), d = (hi - lo || Math.abs(hi) || 1) * most; return [lo - d, hi + d]; };
const data = root => JSON.parse(root.querySelector("script[type='application/json']").textContent);

async function copy(text, told) {
  try { await navigator.clipboard.writeText(text); }
  catch (e) {  // no permission, or an old browser
    const area = add("textarea", document.body); area.value = text; area.select(); document.execCommand("copy"); area.remove(); }
  told.textContent = "Copied"; clearTimeout(told.timer); told.timer = setTimeout(() => { told.textContent = told.dataset.says; }, 1500);
}
function command(into, text) {
  const box = add("div", into, undefined, "command"); add("code", add("pre", box), text);
  return copyButton(add("button", box, "Copy"), text);
}
function copyButton(button, text) { button.type = "button"; button.dataset.says = button.textContent;
  button.setAttribute("aria-live", "polite"); button.addEventListener("click", () => copy(text, button)); return button; }

// A front: values of what is pointed at; a click, or Enter, shows the command that picks a network, and copies it.
function front(root) {
  const D = data(root), svg = root.querySelector("svg"), x = root.querySelector("select"), what = root.querySelector(".what");
  const rows = root.querySelector("tbody"); let pinned = null;
  const text = (v, m) => m === 0 && !D.units[0] ? (100 * v).toFixed(2) + " %" : short(v);
  const label = p => "#" + p.i + ": " + D.names.map((n, m) => n + " " + text(p.v[m], m) + (D.units[m] ? " " + D.units[m] : "")).join(", ");
  function show(p) {
    what.replaceChildren(); root.querySelectorAll(".on").forEach(e => e.classList.remove("on"));
    if (!p) { what.textContent = "Nothing selected."; return; }
    add("div", what, label(p)); add("div", what, p.c, "muted");
    root.querySelectorAll("[data-i='" + p.i + "']").forEach(e => e.classList.add("on"));
    if (p.k) return command(what, p.k);
    if (!p.f) add("div", what, "Not on the front: another network is at least as good in everything.", "muted");
  }
  function choose(p) { pinned = p; const button = show(p); if (button) copy(p.k, button); }
  function operable(e, p) { e.setAttribute("tabindex", 0); e.addEventListener("focus", () => show(p)); e.addEventListener("click", () => choose(p));
    e.addEventListener("keydown", k => { if (k.key === "Enter" || k.key === " ") { k.preventDefault(); choose(p); } }); }
  function draw() {
    const W = Math.max(320, Math.min(900, svg.clientWidth || 780)), H = Math.min(420, W * .62), L = 58, R = W - 14, T = 12, B = H - 44;
    const m = +x.value, xs = D.points.map(p => p.v[m]), ys = D.points.map(p => p.v[0]);
    svg.replaceChildren(); svg.setAttribute("viewBox", "0 0 " + W + " " + H); if (!D.points.length) return;
    const [x0, x1] = span(xs, .05), [y0, y1] = span(ys, .05);
    const X = v => L + (v - x0) / (x1 - x0) * (R - L), Y = v => B - (v - y0) / (y1 - y0) * (B - T);
    for (const y of round(y0, y1, 5)) { put("line", {x1: L, x2: R, y1: Y(y), y2: Y(y)}, svg);
      put("text", {x: L - 6, y: Y(y) + 4, "text-anchor": "end"}, svg, text(y, 0)); }
    for (const v of round(x0, x1, W < 500 ? 3 : 5)) { put("line", {y1: T, y2: B, x1: X(v), x2: X(v)}, svg);
      put("text", {x: X(v), y: B + 18, "text-anchor": "middle"}, svg, text(v, m)); }
    put("text", {x: (L + R) / 2, y: B + 38, "text-anchor": "middle"}, svg, D.names[m] + (D.units[m] ? " [" + D.units[m] + "]" : ""));
    for (const p of [...D.points].sort((a, b) => a.f - b.f || a.v[m] - b.v[m])) {
      const c = put("circle", {cx: X(p.v[m]), cy: Y(p.v[0]), r: p.f ? 5.5 : 3.5, "data-i": p.i}, svg);
      if (p.f) { c.classList.add("f"); c.setAttribute("role", "button"); c.setAttribute("aria-label", label(p)); operable(c, p); }
      else c.addEventListener("click", () => choose(p));
      put("title", {}, c, label(p)); c.addEventListener("mouseenter", () => show(p));
      c.addEventListener("mouseleave", () => { if (pinned) show(pinned); });
    }
    if (pinned) show(pinned);
  }
  D.names.slice(1).forEach((n, k) => x.append(new Option(n, k + 1))); if (D.names.length < 2) x.append(new Option(D.names[0], 0));
  for (const p of D.points.filter(p => p.f).sort((a, b) => a.v[0] - b.v[0])) {
    const tr = add("tr", rows); tr.dataset.i = p.i; operable(tr, p);
    for (const [k, t] of ["" + p.i, ...p.v.map(text), p.c].entries()) add("td", tr, t, k <= D.names.length ? "n" : "w");
  }
  x.addEventListener("change", draw); addEventListener("resize", draw); draw();
}

// Curves over epochs; the values under the pointer, or where the arrow keys lead.
function lines(root) {
  const D = data(root), what = root.querySelector(".what"), svg = root.querySelector("svg");
  const colour = k => "var(--c" + k % 10 + ")", dash = k => ["", "6 3", "2 2"][Math.floor(k / 10) % 3];
  const xs = [...new Set(D.series.flatMap(s => s.x))].sort((a, b) => a - b); let at = -1, frame = null;
  function draw() {
    const W = Math.max(180, Math.min(900, svg.clientWidth || 400)), H = D.height || Math.min(300, Math.max(190, W * .6)), L = 46, R = W - 10, T = 8, B = H - 22;
    svg.replaceChildren(); svg.setAttribute("viewBox", "0 0 " + W + " " + H);
    const [x0, x1] = xs.length > 1 ? [xs[0], xs[xs.length - 1]] : [xs[0] - 1, xs[0] + 1];
    const [y0, y1] = D.range || span(D.series.flatMap(s => s.y), .05);
    const X = v => L + (v - x0) / (x1 - x0) * (R - L), Y = v => B - (v - y0) / (y1 - y0) * (B - T); frame = {X, x0, x1, L, R, T, B, W};
    for (const y of round(y0, y1, H < 150 ? 2 : 4)) { put("line", {x1: L, x2: R, y1: Y(y), y2: Y(y)}, svg);
      put("text", {x: L - 5, y: Y(y) + 4, "text-anchor": "end"}, svg, short(y)); }
    for (const v of round(x0, x1, W < 260 ? 3 : 5)) if (Number.isInteger(v)) put("text", {x: X(v), y: B + 16, "text-anchor": "middle"}, svg, "" + v);
    D.series.forEach(s => { const k = s.k;
      put("path", {d: s.x.map((v, i) => (i ? "L" : "M") + X(v).toFixed(1) + "," + Y(s.y[i]).toFixed(1)).join(""), stroke: colour(k),
        style: "stroke:" + colour(k), "stroke-dasharray": dash(k)}, svg);
      if (s.x.length === 1) put("circle", {cx: X(s.x[0]), cy: Y(s.y[0]), r: 3.5, style: "fill:" + colour(k)}, svg); });
    put("line", {class: "cursor", y1: T, y2: B, x1: -9, x2: -9}, svg); if (at >= 0) point(at);
  }
  function point(i) { at = Math.max(0, Math.min(xs.length - 1, i)); const c = svg.querySelector(".cursor"), v = xs[at];
    c.setAttribute("x1", frame.X(v)); c.setAttribute("x2", frame.X(v));
    const here = D.series.filter(s => s.x.includes(v)).map(s => [s.name, s.y[s.x.indexOf(v)]]), most = 4;
    if (here.length > most) here.sort((a, b) => b[1] - a[1]);  // of many candidates, the likeliest
    what.textContent = D.x + " " + v + ": " + here.slice(0, most).map(([n, y]) => (n + " " + short(y)).trim()).join(", ") + (here.length > most ? ", ..." : ""); }
  svg.addEventListener("pointermove", e => { const b = svg.getBoundingClientRect(), px = (e.clientX - b.left) / b.width * frame.W;
    point(xs.reduce((best, v, i) => Math.abs(frame.X(v) - px) < Math.abs(frame.X(xs[best]) - px) ? i : best, 0)); });
  svg.addEventListener("keydown", e => { const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: xs.length - 1}[e.key];
    if (to !== undefined) { e.preventDefault(); point(to); } });
  addEventListener("resize", draw); draw();
}

function legends() { for (const line of document.querySelectorAll(".legend svg")) { const k = +line.dataset.k;
  put("path", {d: "M1,6H27", style: "stroke:var(--c" + k % 10 + ");stroke-width:3;fill:none", "stroke-dasharray": ["", "6 3", "2 2"][Math.floor(k / 10) % 3]}, line); } }

addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".front").forEach(front); document.querySelectorAll(".lines").forEach(lines); legends();
  document.querySelectorAll("[data-copy]").forEach(b => copyButton(b, b.parentElement.querySelector("code").textContent));
});
