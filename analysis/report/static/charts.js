// Small drawings beside their numbers: bars, curves, histograms.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);
  const s = (...given) => isae.s(...given);
  const WIDTH = 240, HEIGHT = 96;

  /** A share as a bar in a cell, its number beside it; `mark`: a line at what was expected. */
  isae.bar = (share, colour, mark) => {
    if (share === null || share === undefined) return h("span", { class: "absent" }, "not measured");
    const fill = h("span", { class: "bar-fill" });
    fill.style.width = 100 * Math.min(1, Math.max(0, share)) + "%";
    fill.style.background = colour;
    const track = h("span", { class: "bar-track", "aria-hidden": "true" }, fill);
    if (mark !== null && mark !== undefined) {
      const line = h("span", { class: "bar-mark" });
      line.style.left = 100 * Math.min(1, Math.max(0, mark)) + "%";
      track.append(line);
    }
    return h("span", { class: "bar" }, track, h("span", { class: "bar-number" }, isae.number(share)));
  };

  function frame(title, said, inside, axis) {
    return h("figure", { class: "chart" }, h("figcaption", {}, title),
      s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": said,
        preserveAspectRatio: "none" }, inside),
      h("p", { class: "axis", "aria-hidden": "true" }, axis.map((text) => h("span", {}, text))),
      h("p", { class: "note" }, said));
  }

  /** A curve of values over x; `null_y`, drawn grey, is what chance gives. */
  isae.curve = ({ name, unit, x, y, null_y: chance }) => {
    const places = y.map((_, at) => at).filter((at) => Number.isFinite(y[at]));
    if (!places.length) {
      return h("figure", { class: "chart" }, h("figcaption", {}, name), isae.absent("No value."));
    }
    const both = chance ? [...y, ...chance] : y;
    const known = both.filter(Number.isFinite);
    const low = Math.min(0, ...known), high = Math.max(...known, low + 1e-12);
    const left = x[0], span = x[x.length - 1] - left || 1;
    const across = (at) => ((x[at] - left) / span * WIDTH).toFixed(1);
    const up = (value) => (HEIGHT - 3 - (value - low) / (high - low) * (HEIGHT - 6)).toFixed(1);
    const path = (values) => values.map((value, at) =>
      (Number.isFinite(value) ? `${across(at)},${up(value)}` : null)).filter(Boolean).join(" ");
    const best = places.reduce((one, at) => (y[at] > y[one] ? at : one), places[0]);
    const units = unit ? " " + unit : "";
    const said = `Largest ${isae.number(y[best])} at ${isae.number(x[best])}${units}.` +
      (chance ? " Grey: by chance." : "");
    return frame(name, said, [
      s("line", { class: "zero", x1: 0, x2: WIDTH, y1: up(0), y2: up(0) }),
      chance ? s("polyline", { class: "curve chance", points: path(chance) }) : null,
      s("polyline", { class: "curve", points: path(y) }),
    ], [isae.number(left), unit || "", isae.number(x[x.length - 1])]);
  };

  /** A histogram over the edges of its bins; heights by the logarithm of 1 + count. */
  isae.histogram = (title, edges, counts) => {
    const log = edges[0] > 0 && edges[edges.length - 1] / edges[0] > 100;
    const turn = log ? Math.log : (value) => value;
    const left = turn(edges[0]), span = turn(edges[edges.length - 1]) - left || 1;
    const tallest = Math.log1p(Math.max(1, ...counts));
    const bars = counts.map((count, at) => {
      const from = (turn(edges[at]) - left) / span * WIDTH;
      const to = (turn(edges[at + 1]) - left) / span * WIDTH;
      const tall = Math.log1p(count) / tallest * (HEIGHT - 4);
      return s("rect", { class: "bin", x: from + 0.5, width: Math.max(0.5, to - from - 1),
        y: HEIGHT - tall, height: tall },
      s("title", {}, `${isae.number(edges[at])} to ${isae.number(edges[at + 1])}: ${isae.count(count)}`));
    });
    const all = counts.reduce((sum, count) => sum + count, 0);
    const said = `${isae.many(all, "value")} in ${isae.many(counts.length, "bin")}, the fullest ` +
      `${isae.count(Math.max(...counts))}; heights are logarithmic${log ? ", and so is the axis" : ""}.`;
    const ends = [edges[0], edges[edges.length - 1]].map(isae.number);
    return frame(title, said, bars, [ends[0], "value", ends[1]]);
  };
})();
