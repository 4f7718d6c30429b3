// Colours of points and bars. Categories: Okabe and Ito 2008, told apart with any common colour
// blindness, the same as in the figures; ordered things and numbers: cividis (Nunez 2018).
"use strict";
(() => {
  const CATEGORIES = {
    light: ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"],
    dark: ["#3E9BDB", "#E8762B", "#1DB48A", "#D991B9", "#E9AE2B", "#8FD0F5", "#F2F2F2"],
  };
  const REST = { light: "#9a9a96", dark: "#6d7278" };
  const BRANCHES = { "1x1": 0, "3x3": 1, "5x5": 2, pool: 3 };
  const CIVIDIS = [
    [0, 32, 77], [0, 48, 111], [57, 72, 107], [87, 93, 109], [112, 113, 115], [138, 134, 120],
    [165, 156, 116], [195, 179, 105], [225, 204, 85], [255, 234, 70],
  ];
  const scheme = matchMedia("(prefers-color-scheme: dark)");

  isae.isDark = () => scheme.matches;
  isae.onScheme = (call) => {
    scheme.addEventListener("change", call);
    return () => scheme.removeEventListener("change", call);
  };
  isae.restColour = () => REST[isae.isDark() ? "dark" : "light"];

  /** The colour of a part of 0..1 along cividis, as "#rrggbb". */
  isae.scaleColour = (part) => {
    // The ends of the scale would drown in the page's own colour.
    const low = isae.isDark() ? 0.22 : 0, high = isae.isDark() ? 1 : 0.93;
    const place = (low + (high - low) * Math.min(1, Math.max(0, part))) * (CIVIDIS.length - 1);
    const at = Math.min(CIVIDIS.length - 2, Math.floor(place));
    const mixed = CIVIDIS[at].map((from, channel) =>
      Math.round(from + (CIVIDIS[at + 1][channel] - from) * (place - at)));
    return "#" + mixed.map((value) => value.toString(16).padStart(2, "0")).join("");
  };

  /** Branches keep their colours in every view; others by their number. */
  isae.branchColour = (name, number) => {
    const colours = CATEGORIES[isae.isDark() ? "dark" : "light"];
    return colours[(BRANCHES[name] ?? number) % colours.length];
  };

  /**
   * One colour for each name of a category: ordered names along the scale; Inception's branches
   * their own; else the most frequent ones a colour each and the rest one grey.
   */
  isae.categoryColours = (names, counts, ordered) => {
    const colours = CATEGORIES[isae.isDark() ? "dark" : "light"];
    if (ordered) return names.map((_, at) => isae.scaleColour(at / Math.max(1, names.length - 1)));
    const out = names.map(() => isae.restColour());
    const free = colours.slice();
    names.forEach((name, at) => {
      if (!(name in BRANCHES)) return;
      out[at] = colours[BRANCHES[name]];
      free.splice(free.indexOf(out[at]), 1);
    });
    const others = names.map((_, at) => at)
      .filter((at) => !(names[at] in BRANCHES) && !/^(none|dead|unexplained)$/.test(names[at]));
    others.sort((a, b) => counts[b] - counts[a] || a - b);
    others.slice(0, free.length).forEach((at, turn) => { out[at] = free[turn]; });
    return out;
  };

  /** "#rrggbb" as [r, g, b]. */
  isae.rgb = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
})();
