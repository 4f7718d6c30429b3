// Patches of pictures: tiles of a sheet, with the feature's own values drawn over them.
"use strict";
(() => {
  const h = (...given) => isae.h(...given);
  const GROUPS = [
    ["top", "Strongest",
      "The places where the feature is strongest. They flatter it: look at the other groups too."],
    ["range", "Across its range",
      "From its strongest values to its weakest: is it the same thing all along?"],
    ["random", "At random where active",
      "Drawn from all places where it is active: what it mostly answers to."],
    ["anywhere", "At random anywhere",
      "Drawn from all places: what it mostly does not answer to."],
  ];
  const DIM = 0.5; // how dark a place without any activity is
  const SHARP = 2; // pixels of a drawing for one of a tile: heat maps are smooth
  const ROWS = 64; // features of one sheet
  const HELD_OUT = "held out of the SAE's training; the network may have been trained on it";
  const sheets = new Map();

  /** The picture of a path below the report's folder, kept while it is among the last few. */
  isae.picture = (path) => {
    if (!sheets.has(path)) {
      sheets.set(path, new Promise((resolve, reject) => {
        const image = new Image();
        image.onload = () => resolve(image);
        image.onerror = () => reject(new Error(`The picture ${path} is missing or damaged.`));
        image.src = path.split("/").map(encodeURIComponent).join("/");
      }));
      if (sheets.size > 8) sheets.delete(sheets.keys().next().value);
    }
    return sheets.get(path);
  };

  /** The patches of a feature by group; `heat`: whether values are drawn over them. */
  isae.patches = (patches, heat) => {
    if (!patches.sheet || !patches.tile) {
      return isae.absent("The places are known, but no patches were cut: the store's pictures were not " +
        "found when the patches were made.");
    }
    const drawn = [];
    const parts = GROUPS.map(([group, title, text]) => {
      const entries = patches.entries.filter((entry) => entry.group === group);
      if (!entries.length) return null;
      return h("section", { class: "patch-group", "aria-label": title },
        h("h3", {}, title), h("p", { class: "note" }, text),
        h("ul", { class: "patches" }, entries.map((entry) => {
          const canvas = h("canvas", { class: "patch", role: "img", "aria-label": spoken(entry),
            width: SHARP * patches.tile, height: SHARP * patches.tile });
          drawn.push([canvas, entry]);
          return h("li", {}, h("figure", {}, canvas, caption(entry)));
        })));
    });
    const element = h("div", {}, parts);
    isae.picture(patches.sheet).then(
      (sheet) => drawn.forEach(([canvas, entry]) => draw(canvas, sheet, patches, entry, heat)),
      (error) => element.prepend(isae.trouble(error.message)));
    return element;
  };

  /**
   * The strongest patches of another feature of the same layer, for beside its name. Its sheet has
   * the same columns; it is read once the strip is near to being seen.
   */
  isae.strip = (patches, feature, most) => {
    const tops = patches.entries.filter((entry) => entry.group === "top").slice(0, most);
    const { tile } = patches;
    const canvas = h("canvas", { class: "strip", width: tops.length * tile, height: tile,
      role: "img", "aria-label": `Strongest patches of feature ${feature}` });
    canvas.style.aspectRatio = String(tops.length);
    const look = new IntersectionObserver(([seen]) => {
      if (!seen.isIntersecting) return;
      look.disconnect();
      const path = patches.sheet.replace(/\d+(?=\.\w+$)/, Math.floor(feature / ROWS));
      isae.picture(path).then((sheet) => {
        tops.forEach((entry, at) => canvas.getContext("2d").drawImage(sheet, entry.tile * tile,
          feature % ROWS * tile, tile, tile, at * tile, 0, tile, tile));
        canvas.dataset.drawn = "plain";
      }, (error) => canvas.replaceWith(h("span", { class: "absent" }, error.message)));
    });
    look.observe(canvas);
    return canvas;
  };

  const heldOut = (entry) => entry.split !== "train";

  function spoken(entry) {
    return [
      `Patch of ${entry.name || "a picture"}${entry.label ? ` (${entry.label})` : ""}`,
      heldOut(entry) ? "held-out picture" : "training picture",
      `value ${isae.number(entry.value)}`, quantile(entry),
      entry.border ? "at the border, padding reaches its field" : null,
    ].filter(Boolean).join(", ");
  }

  const quantile = (entry) => entry.quantile === null || entry.quantile === undefined ? null
    : `quantile ${isae.number(entry.quantile)}`;

  function caption(entry) {
    const place = `row ${entry.y}, column ${entry.x}`;
    return h("figcaption", { title: [entry.name, place].filter(Boolean).join(", ") },
      h("span", { class: "patch-value" }, isae.number(entry.value),
        quantile(entry) ? h("span", { class: "note", title: "quantile of its positive values" },
          ` q ${Number(entry.quantile).toFixed(2)}`) : null),
      h("span", { class: "patch-label" }, entry.label || entry.name || ""),
      h("span", { class: "tags" },
        heldOut(entry) ? h("span", { class: "tag held", title: HELD_OUT }, "held out")
          : h("span", { class: "tag", title: "the SAE was trained on it" }, "train"),
        entry.border
          ? h("span", { class: "tag border", title: "padding reaches its effective field" }, "border") : null));
  }

  function draw(canvas, sheet, patches, entry, heat) {
    const context = canvas.getContext("2d");
    const { tile, row } = patches, side = SHARP * tile;
    const there = (entry.tile + 1) * tile <= sheet.naturalWidth && (row + 1) * tile <= sheet.naturalHeight;
    if (entry.shown === false || !there) {
      canvas.replaceWith(isae.h("div", { class: "patch gone" },
        there ? "The picture could not be read." : "Not on the sheet."));
      return;
    }
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet, entry.tile * tile, row * tile, tile, tile, 0, 0, side, side);
    if (heat && entry.heat?.box && entry.heat.rows * entry.heat.columns > 0) cover(context, side, entry.heat);
    canvas.dataset.drawn = heat ? "heat" : "plain";
  }

  /** Darken what the feature does not answer to; places without a known value too. */
  function cover(context, side, { rows, columns, values, box }) {
    const cells = typeof values === "string" ? isae.bytes(values) : values;
    const small = document.createElement("canvas");
    small.width = columns;
    small.height = rows;
    const pixels = new ImageData(columns, rows);
    for (let at = 0; at < rows * columns; at++) {
      pixels.data[4 * at + 3] = Math.round(255 * DIM * (1 - (cells[at] ?? 0) / 255));
    }
    small.getContext("2d").putImageData(pixels, 0, 0);
    const [left, top, right, bottom] = box.map((part) => Math.round(part * side));
    context.drawImage(small, left, top, right - left, bottom - top);
    context.fillStyle = `rgb(0 0 0 / ${DIM})`;
    context.beginPath();
    context.rect(0, 0, side, side);
    context.rect(left, top, right - left, bottom - top);
    context.fill("evenodd");
  }
})();
